"""Verifiers of a run as tables for people and as JSON for programs."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table

from tristream.cli.verifier_states import Role, VerifierStanding, VerifierState
from tristream.verifiers.offline.comparison import Comparison

FINAL_REWARD = "final reward"


def verifier_table(run: str, standings: Sequence[VerifierStanding], source_names: Sequence[str]) -> Table:
    """One row a version and role."""
    table = Table(title=f"verifiers of {run}", title_justify="left")
    for title in ("verifier", "state", "sources", "weights"):
        table.add_column(title)
    for title in ("since prompt", "workers", "scored"):
        table.add_column(title, justify="right")
    for standing in standings:
        tail = (str(standing.num_workers), f"{standing.num_scored:,}")
        rows = _by_role(standing.roles)
        if not rows or standing.state in (VerifierState.RETIRING, VerifierState.RETIRED):
            since = "-" if standing.retired_from is None else str(standing.retired_from)
            table.add_row(standing.name, standing.state, "-", "-", since, *tail)
        for place, (role, sources) in enumerate(rows):
            where = "all" if set(sources) == set(source_names) else ", ".join(sources)
            ends = tail if place == 0 else ("", "")
            table.add_row(
                standing.name if place == 0 else "", role.mode, where, _weights(role), str(role.from_number), *ends
            )
    return table


def standing_to_json(standing: VerifierStanding) -> dict[str, Any]:
    """One version as JSON values."""
    added = standing.added
    return {
        "verifier": standing.verifier,
        "version": standing.version,
        "state": str(standing.state),
        "sources": {
            source: {
                "mode": str(role.mode),
                "weights": None if role.weights is None else dict(role.weights),
                "from_number": role.from_number,
            }
            for source, role in sorted(standing.roles.items())
        },
        "entry_point": "" if added is None else added.entry_point,
        "components": [] if added is None else list(added.components),
        "retired_from": standing.retired_from,
        "num_workers": standing.num_workers,
        "num_scored": standing.num_scored,
    }


def comparison_table(first: str, second: str, found: Sequence[Comparison]) -> Table:
    """One row a source."""
    other = second or FINAL_REWARD
    table = Table(title=f"{first} beside the {other}" if not second else f"{first} beside {other}")
    table.add_column("source")
    for title in ("rollouts", other, first, "agreement", "rank correlation", "signs changed", "not scored"):
        table.add_column(title, justify="right")
    for row in found:
        correlation = "-" if row.rank_correlation is None else f"{row.rank_correlation:.3f}"
        changes = f"{row.num_sign_changes:,} ({row.num_sign_changes / max(1, row.num_rollouts):.1%})"
        table.add_row(
            row.source,
            f"{row.num_rollouts:,}",
            f"{row.old_mean:.3f}",
            f"{row.new_mean:.3f}",
            f"{row.agreement:.1%}",
            correlation,
            changes,
            f"{row.num_unscored:,}",
        )
    return table


def comparison_to_json(run: str, first: str, second: str, found: Sequence[Comparison]) -> dict[str, Any]:
    """A comparison as JSON values."""
    return {
        "run": run,
        "verifier": first,
        "with": second or FINAL_REWARD,
        "sources": {
            row.source: {
                "num_rollouts": row.num_rollouts,
                "mean": row.new_mean,
                "mean_with": row.old_mean,
                "agreement": row.agreement,
                "rank_correlation": row.rank_correlation,
                "num_sign_changes": row.num_sign_changes,
                "num_unscored": row.num_unscored,
            }
            for row in found
        },
    }


def _by_role(roles: Mapping[str, Role]) -> list[tuple[Role, list[str]]]:
    """The sources of each role, those that count first."""
    rows: list[tuple[Role, list[str]]] = []
    for source, role in sorted(roles.items(), key=lambda item: (item[1].mode, item[0])):
        known = next((sources for other, sources in rows if other == role), None)
        if known is None:
            rows.append((role, [source]))
        else:
            known.append(source)
    return rows


def _weights(role: Role) -> str:
    if role.mode is not VerifierState.ACTIVE:
        return "-"
    if role.weights is None:
        return "of the rows"
    return ", ".join(f"{name} {weight:g}" for name, weight in sorted(role.weights.items()))

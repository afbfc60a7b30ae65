"""What is shown of the verifiers that were added while a run goes on."""

from collections.abc import Iterable, Sequence

from tristream.cli.verifier_states import VerifierState, find_standings
from tristream.local.part_statuses import Statuses
from tristream.wire.events import Command


def describe_verifiers(commands: Iterable[Command], statuses: Statuses, source_names: Sequence[str]) -> str:
    """Each version that was added or promoted, what it is for, and whether it lacks a worker; empty without any."""
    told = [status for instances in statuses.values() for status in instances]
    words = []
    for standing in find_standings(commands, told, source_names):
        active = [
            (source, role) for source, role in sorted(standing.roles.items()) if role.mode is VerifierState.ACTIVE
        ]
        is_changed = standing.added is not None or any(role.weights is not None for _, role in active)
        if not is_changed or standing.state is VerifierState.RETIRED:
            continue
        names = [source for source, _ in active]
        where = f" in {', '.join(names)}" if names and len(names) < len(source_names) else ""
        lack = "" if standing.num_workers else " (no worker serves it)"
        words.append(f"{standing.name} {standing.state}{where}{lack}")
    return f"verifiers: {', '.join(words)}" if words else ""

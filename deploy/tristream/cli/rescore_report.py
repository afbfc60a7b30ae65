"""What ``tristream rescore`` prints."""

import json
from dataclasses import asdict

from rich import box
from rich.table import Table

from tristream.cli.tables import open_console
from tristream.verifiers.offline.comparison import Comparison, Judged
from tristream.verifiers.offline.rescoring import Rescored

MAX_TEXT_CHARACTERS = 160


def print_report(rescored: Rescored, *, is_json: bool) -> None:
    """Print how old and new rewards differ, by source."""
    if is_json:
        print(json.dumps(asdict(rescored), indent=2))
        return
    print(
        f"{rescored.verifier}: {rescored.num_groups} groups rescored, {rescored.num_known} were before, "
        f"{rescored.num_unsettled} are not settled yet"
    )
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("source", overflow="fold")
    for title in ("rollouts", "unscored", "old mean", "new mean", "agree", "rank corr.", "signs changed"):
        table.add_column(title, justify="right")
    for source in rescored.sources:
        table.add_row(*_cells(source))
    open_console().print(table)
    for source in rescored.sources:
        for judged in source.disagreements:
            print(_disagreement(source.source, judged))
    print(f"all results: {rescored.path}")


def _cells(source: Comparison) -> list[str]:
    correlation = "-" if source.rank_correlation is None else f"{source.rank_correlation:.3f}"
    return [
        source.source,
        str(source.num_rollouts),
        str(source.num_unscored),
        f"{source.old_mean:.4f}",
        f"{source.new_mean:.4f}",
        f"{source.agreement:.1%}",
        correlation,
        str(source.num_sign_changes),
    ]


def _disagreement(source: str, judged: Judged) -> str:
    text = " ".join(judged.text.split())
    text = text if len(text) <= MAX_TEXT_CHARACTERS else f"{text[:MAX_TEXT_CHARACTERS]}..."
    return f"{source} {judged.number}/{judged.index} step {judged.step}: {judged.old:.3f} -> {judged.new:.3f}  {text}"

"""What a finished run leaves behind: summary.json, report.html, and the table of every source before and after."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.table import Table

from tristream.audit.accounting import Account
from tristream.audit.audit import audit_run
from tristream.config.run_file import RunFile
from tristream.monitoring.queries.summary import read_summary
from tristream.monitoring.report import write_report
from tristream.monitoring.store.clickhouse import open_client
from tristream.runtime.hooks import reach

MAX_LINES = 20
"""Lines about what did not become part of the run."""


def write_results(
    run_file: RunFile, seconds: dict[str, float], *, on_wait: Callable[[str], None] = lambda _reason: None
) -> tuple[dict[str, Any], Account]:
    """Write ``report.html`` and then ``summary.json``, which marks the run as finished.

    Args:
        run_file: the run; its parts are stopped.
        seconds: duration of each phase of the run.
        on_wait: told what is waited for, while the database does not answer.
    """
    folder = run_file.run.folder
    client = open_client(run_file.monitoring, folder, timeout_seconds=math.inf, on_wait=on_wait)
    try:
        facts = read_summary(client, run_file.run.id)
        account = audit_run(client, run_file, is_finished=True)
        summary = {
            "run": run_file.run.id,
            "steps": facts["steps"],
            "sources": facts["sources"],
            "groups": {
                "dispatched": account.num_dispatched,
                "trained": account.num_trained,
                "pending": account.num_pending,
                "dropped": account.num_dropped_by_reason,
            },
            "verifier_changes": facts["verifier_changes"],
            **facts["lost"],
            "seconds": seconds | {f"learner_{name}": value for name, value in facts["phases"].items()},
        }
        write_report(client, run_file, summary, folder.report)
    finally:
        client.close()
    _write_atomically(folder.summary, json.dumps(summary, indent=2))
    return summary, account


def before_and_after(sources: dict[str, dict[str, Any]]) -> Table:
    """Held-out evaluation of every source before and after the run, and the mean."""
    table = Table(title="held-out evaluation, greedy")
    table.add_column("source")
    for title in ("metric", "before", "after", "change"):
        table.add_column(title, justify="right")
    for name, facts in sources.items():
        table.add_row(name, facts["metric"], *_numbers(facts["eval_before"], facts["eval_after"]))
    whole = [facts for facts in sources.values() if None not in (facts["eval_before"], facts["eval_after"])]
    if len(whole) > 1:
        means = [sum(facts[key] for facts in whole) / len(whole) for key in ("eval_before", "eval_after")]
        table.add_section()
        table.add_row("mean", "", *_numbers(*means))
    return table


def components_before_and_after(sources: dict[str, dict[str, Any]]) -> Table | None:
    """The same of all other components, those of shadows too; None if there are none.

    A mean is over the sources that have a component of the name, if they are several.
    """
    table = Table(title="what else was said of the held-out answers")
    table.add_column("source")
    for title in ("component", "before", "after", "change"):
        table.add_column(title, justify="right")
    by_component: dict[str, list[tuple[float | None, float | None]]] = {}
    for name, facts in sources.items():
        for key, numbers in facts["components"].items():
            term, _, component = key.rpartition(".")
            if component != facts["metric"]:
                pair = (numbers["eval_before"], numbers["eval_after"])
                by_component.setdefault(component, []).append(pair)
                table.add_row(name, f"{component} ({term})", *_numbers(*pair))
    if table.row_count:
        table.add_section()
    for component, pairs in by_component.items():
        befores, afters = ([value for value in column if value is not None] for column in zip(*pairs, strict=True))
        if len(befores) == len(afters) == len(pairs) > 1:
            table.add_row("mean", component, *_numbers(sum(befores) / len(befores), sum(afters) / len(afters)))
    return table if table.row_count else None


def change_lines(summary: dict[str, Any]) -> list[str]:
    """How verifiers changed while the run went on, for people; empty if they did not."""
    changes = summary["verifier_changes"]
    lines = [f"from prompt {row['from_number']} on: {row['text']}" for row in changes[:MAX_LINES]]
    left = len(changes) - MAX_LINES
    return [*lines, f"and {left} more changes in summary.json"] if left > 0 else lines


def lost_lines(summary: dict[str, Any]) -> list[str]:
    """What did not become part of the run, for people; empty if that is nothing."""
    lines = [
        f"dead letters: {row['number']} of {row['topic']}: {row['reason']}" for row in summary["dead_letters_by_reason"]
    ]
    lines += [f"{row['file']} row {row['row']} was left out: {row['reason']}" for row in summary["skipped_rows"]]
    lines += [f"paused {', '.join(row['sources']) or 'all sources'}: {row['reason']}" for row in summary["pauses"]]
    left = len(lines) - MAX_LINES
    return [*lines[:MAX_LINES], f"and {left} more in summary.json"] if left > 0 else lines


def _numbers(before: float | None, after: float | None) -> tuple[str, str, str]:
    shown = ["-" if value is None else f"{value:.3f}" for value in (before, after)]
    change = "-" if before is None or after is None else f"{after - before:+.3f}"
    return shown[0], shown[1], change


def _write_atomically(path: Path, text: str) -> None:
    temporary = path.with_suffix(".tmp")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)
    reach("summary.renamed")

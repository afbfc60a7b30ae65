"""What ``tristream verifiers check`` prints."""

import json
from dataclasses import asdict

from rich import box
from rich.table import Table

from tristream.cli.tables import open_console
from tristream.verifiers.offline.checking import Report


def print_report(report: Report, *, is_json: bool) -> None:
    """Print what was found."""
    if is_json:
        print(json.dumps({"ok": report.holds, **asdict(report)}, indent=2))
        return
    description = report.description
    ranges = ", ".join(f"{name} {low:g}..{high:g}" for name, (low, high) in description.components.items())
    parameters = ", ".join(description.parameters) or "no parameters"
    print(f"{description.versioned_name}: {ranges}; {parameters}; scope {description.scope}")
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("check")
    table.add_column("tried", justify="right")
    table.add_column("")
    for finding in report.findings:
        table.add_row(finding.name, str(finding.num_tried), "NOT ok" if finding.problem else "ok")
    open_console().print(table)
    for finding in report.findings:
        if finding.problem:
            print(f"{finding.name}: {finding.problem}\n  -> {finding.remedy}")
    if report.cost is not None:
        cost = report.cost
        print(
            f"one reward takes {cost.p50_ms:.2f} ms of CPU time (p50), {cost.p99_ms:.2f} ms (p99); "
            f"a group of eight {cost.group_ms:.2f} ms"
        )

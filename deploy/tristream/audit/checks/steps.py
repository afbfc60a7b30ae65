"""Steps follow one another, hold B groups each, and the learner's reports agree with the outcomes."""

from collections import defaultdict
from collections.abc import Mapping

from tristream.audit.findings import Check, Findings
from tristream.audit.group_table import GroupTable, Mark
from tristream.audit.log_facts import Report
from tristream.audit.standing import Standing
from tristream.wire.events import Fate


def trained_by_step(table: GroupTable, standing: Standing) -> dict[int, list[int]]:
    """Numbers of the groups of each step, ascending; pending ones count while the run is open."""
    steps: dict[int, list[int]] = defaultdict(list)
    for number in table.numbers_with(Fate.TRAINED):
        steps[table.steps[number]].append(number)
    if not standing.is_finished:
        for number, step in standing.pending.items():
            if table.fate(number) is None:
                steps[step].append(number)
    return {step: sorted(numbers) for step, numbers in sorted(steps.items())}


def check_steps(
    table: GroupTable, steps: Mapping[int, list[int]], reports: Mapping[int, Report], standing: Standing
) -> Check:
    """Steps 1 to the last are whole."""
    findings = Findings("step")
    last = last_step(steps, standing)
    num_lost = num_lost_groups(table)
    for step in range(1, last + 1):
        held = len(steps.get(step, ()))
        missing = standing.groups_per_step - held
        if 0 < missing <= num_lost and _is_lost(table, steps.get(step, []), reports.get(step)):
            num_lost -= missing
        elif held == 0:
            findings.add(step, "no group was trained")
        elif missing:
            findings.add(step, f"{held} groups were trained, and a step has {standing.groups_per_step}")
    outside = [step for step in steps if not 1 <= step <= standing.total_steps]
    findings.add_all(outside, f"the run has steps 1 to {standing.total_steps}")
    if standing.is_finished and last < standing.total_steps:
        findings.add_all(range(last + 1, standing.total_steps + 1), "the run is finished without it")
    return Check(name="whole steps, without gaps", num_checked=last, findings=findings.lines())


def check_reports(
    table: GroupTable,
    steps: Mapping[int, list[int]],
    reports: Mapping[int, Report],
    standing: Standing,
    excused: set[int],
) -> Check:
    """The newest report of each step says of its groups what their outcomes say."""
    findings = Findings("step")
    last = last_step(steps, standing)
    for step in range(1, last + 1):
        report = reports.get(step)
        if report is None:
            if step not in excused:
                findings.add(step, "there is no report")
            continue
        trained = steps.get(step, [])
        reported = set(report.numbers)
        if not set(trained) <= reported or any(not _may_be_lost(table, n) for n in reported - set(trained)):
            findings.add(step, "the report and the outcomes name other groups")
            continue
        contents = dict(zip(report.numbers, report.contents, strict=True))
        if any(table.fates[number] and table.contents[number] != contents[number] for number in trained):
            findings.add(step, "the report and the outcomes say other rewards")
    return Check(name="reports as outcomes", num_checked=last, findings=findings.lines())


def last_step(steps: Mapping[int, list[int]], standing: Standing) -> int:
    """The last step that the log or the ledger calls done, if the run has it."""
    settled = standing.ledger.step if standing.ledger is not None else 0
    return min(max([settled, *steps]), standing.total_steps)


def num_lost_groups(table: GroupTable) -> int:
    """Groups whose outcomes were lost with the end of a log; a ledger settles them."""
    return sum(1 for number in range(table.num_rows) if _may_be_lost(table, number))


def _may_be_lost(table: GroupTable, number: int) -> bool:
    return bool(number < table.num_rows and table.marks[number] & Mark.EXCUSED and not table.fates[number])


def _is_lost(table: GroupTable, held: list[int], report: Report | None) -> bool:
    """Whether the groups that a step lacks may be those that were lost, as far as its report tells."""
    if report is None:
        return True
    return all(_may_be_lost(table, number) for number in set(report.numbers) - set(held))

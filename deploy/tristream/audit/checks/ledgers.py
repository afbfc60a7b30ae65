"""The ledger of the newest checkpoint agrees with the outcomes, and each ledger with itself."""

from collections.abc import Iterator
from collections.abc import Set as AbstractSet

from tristream.audit.findings import Check, Findings, name_ranges
from tristream.audit.group_table import GroupTable, Mark
from tristream.audit.standing import Standing
from tristream.wire.events import Fate, Interval, Ledger
from tristream.wire.ledger import IntervalSet, number_checksum

MOST_NAMED = 10
"""Ledgers that do not add up and are named."""


def check_ledger(
    table: GroupTable, standing: Standing, uneven: AbstractSet[tuple[int, int, int]], told: Ledger | None
) -> Check:
    """What is settled has an outcome, what was trained is settled, and what was dropped is counted.

    Args:
        table: the training groups.
        standing: the ledgers.
        uneven: step, settled and dropped groups of announced ledgers that do not add up.
        told: the newest ledger that the learner called durable.
    """
    ledger = standing.ledger
    findings = [
        f"ledger of step {step}: {num_settled} settled groups less {num_dropped} dropped ones "
        f"are not {standing.groups_per_step} a step"
        for step, num_settled, num_dropped in sorted(uneven)[:MOST_NAMED]
    ]
    if ledger is None:
        trained = Findings("group")
        trained.add_all(table.numbers_with(Fate.TRAINED), "trained, and there is neither a checkpoint nor a ledger")
        findings += trained.lines()
    else:
        findings += _compare(table, standing, ledger)
    if told is not None and standing.checkpoint_step is not None and standing.checkpoint_step < told.step:
        findings.append(f"checkpoint of step {standing.checkpoint_step}: the learner called step {told.step} durable")
    num_settled = sum(interval.end - interval.start for interval in ledger.settled) if ledger else 0
    return Check(name="ledger as outcomes", num_checked=num_settled, findings=tuple(findings))


def _compare(table: GroupTable, standing: Standing, ledger: Ledger) -> Iterator[str]:
    findings = Findings("group")
    settled = IntervalSet(ledger.settled)
    later = standing.later_ledger or ledger
    later_settled = IntervalSet(later.settled)
    num_lost, dropped = 0, []
    for interval in settled.intervals:
        known_end = min(interval.end, table.num_rows)
        if interval.end > known_end:
            unknown = IntervalSet([Interval(start=max(interval.start, known_end), end=interval.end)])
            yield f"{name_ranges('group', unknown)}: settled by the ledger, and not on the log"
        for number in range(interval.start, known_end):
            fate = table.fate(number)
            if fate is Fate.DROPPED:
                dropped.append(number)
            elif fate is None and not _is_pending(standing, number):
                num_lost += bool(table.marks[number] & Mark.EXCUSED)
                if not table.marks[number] & Mark.EXCUSED:
                    findings.add(number, "settled by the ledger, and there is no outcome")
    for number in table.numbers_with(Fate.TRAINED):
        is_open = table.steps[number] > later.step and standing.checkpoint_step is None and not standing.is_finished
        if number not in later_settled and not is_open:
            findings.add(number, f"trained at step {table.steps[number]}, which the ledger does not settle")
    yield from findings.lines()
    yield from _compare_dropped(ledger, dropped, num_lost)


def _compare_dropped(ledger: Ledger, dropped: list[int], num_lost: int) -> Iterator[str]:
    if not len(dropped) <= ledger.num_dropped <= len(dropped) + num_lost:
        yield f"ledger of step {ledger.step}: {ledger.num_dropped} dropped groups, and {len(dropped)} by the outcomes"
    elif num_lost == 0 and ledger.dropped_checksum != number_checksum(dropped):
        yield f"ledger of step {ledger.step}: dropped_checksum is not that of the groups dropped by the outcomes"


def _is_pending(standing: Standing, number: int) -> bool:
    return not standing.is_finished and number in standing.pending

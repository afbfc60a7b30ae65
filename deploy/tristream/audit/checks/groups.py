"""Each number has one prompt and one outcome, and the numbers are dense."""

from tristream.audit.findings import Check, Findings
from tristream.audit.group_table import GroupTable, Mark
from tristream.audit.standing import Standing
from tristream.wire.events import DropReason, Fate


def check_prompts(table: GroupTable) -> Check:
    """Each number has one prompt, of one digest, and none is left out."""
    findings = Findings("group")
    last = last_number(table)
    for number in range(last + 1):
        marks, fate = table.marks[number], table.fate(number)
        if not marks & (Mark.PROMPT | Mark.EXCUSED):
            findings.add(number, "no prompt is on the log" + (" and there is an outcome" if fate else ""))
        if marks & Mark.OTHER_SIZE:
            findings.add(number, f"there are not {table.group_size} rollouts in the group")
        if marks & Mark.CONFLICT and fate and table.reason(number) is not DropReason.CONFLICTING:
            findings.add(number, "there are prompts of two digests and the group was not dropped as conflicting")
        if not marks & (Mark.CONFLICT | Mark.STRANGE_ROLLOUT) and table.reason(number) is DropReason.CONFLICTING:
            findings.add(number, "the group was dropped as conflicting and has prompts of one digest")
    findings.add_all(sorted(table.strays), "the number is far beyond all others")
    num_checked = num_prompts(table)
    nothing = () if num_checked else ("there is nothing to audit: no training prompt is on the log",)
    return Check(
        name="one prompt a number, without gaps", num_checked=num_checked, findings=(*nothing, *findings.lines())
    )


def check_outcomes(table: GroupTable, standing: Standing) -> Check:
    """Each number has one outcome; while the run is open there may be none yet."""
    findings = Findings("group")
    num_checked = 0
    for number in range(table.num_rows):
        if table.fates[number]:
            num_checked += 1
            if table.fate(number) is Fate.EVALUATED:
                findings.add(number, "a training group was evaluated")
        elif standing.is_finished and table.marks[number] & Mark.PROMPT and not table.marks[number] & Mark.EXCUSED:
            findings.add(number, "there is no outcome and the run is finished")
    for number, texts in sorted(table.contradictions.items()):
        findings.add(number, f"there are outcomes that differ: {', '.join(sorted(texts))}")
    findings.add_all(
        table.forgotten, "trained on an earlier log, and the ledger with which the next log begins does not know it"
    )
    return Check(name="one outcome a number", num_checked=num_checked, findings=findings.lines())


def num_prompts(table: GroupTable) -> int:
    """Numbers that have a prompt."""
    return sum(1 for marks in table.marks if marks & Mark.PROMPT)


def last_number(table: GroupTable) -> int:
    """The largest number of which the log or a ledger says anything; -1 if there is none."""
    return next(
        (number for number in range(table.num_rows - 1, -1, -1) if table.marks[number] or table.fates[number]), -1
    )

"""Commands that pause and resume sources hold: no prompt of a paused source is on the log."""

from collections.abc import Sequence
from dataclasses import dataclass

from tristream.audit.findings import Check, Findings
from tristream.audit.group_table import GroupTable, Mark
from tristream.wire.events import Command, CommandKind


@dataclass(frozen=True, slots=True)
class _Segment:
    """Sources that are paused from a number on."""

    start: int
    paused: frozenset[str]


def check_pauses(table: GroupTable, source_names: Sequence[str], commands: Sequence[Command]) -> Check:
    """Each prompt is one of a source that takes part at its number.

    Args:
        table: the training groups.
        source_names: names of the sources, by their positions in the table.
        commands: those that hold, in the order in which they were given.
    """
    findings = Findings("group")
    segments = paused_segments(commands, source_names)
    for segment, following in zip(segments, [*segments[1:], None], strict=True):
        end = table.num_rows if following is None else min(following.start, table.num_rows)
        for number in range(segment.start, end) if segment.paused else ():
            if table.marks[number] & Mark.PROMPT:
                source = source_names[table.sources[number]]
                if source in segment.paused:
                    findings.add(number, f"dispatched of source {source}, which was paused")
    return Check(name="pauses of sources", num_checked=len(segments) - 1, findings=findings.lines())


def paused_segments(commands: Sequence[Command], source_names: Sequence[str]) -> list[_Segment]:
    """Which sources are paused from which number on, ascending; a command that is older than one before is left out."""
    segments = [_Segment(0, frozenset())]
    for command in commands:
        if command.kind not in (CommandKind.PAUSE_SOURCE, CommandKind.RESUME_SOURCE):
            continue
        if command.from_number < segments[-1].start:
            continue
        sources = frozenset(command.sources or source_names)
        before = segments[-1].paused
        paused = before | sources if command.kind is CommandKind.PAUSE_SOURCE else before - sources
        segments.append(_Segment(command.from_number, paused))
    return segments

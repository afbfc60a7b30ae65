"""How many groups of sources that wait are in flight: a pure count, by what the assembler tells.

Its statuses say how many groups of each source are not complete; a group that it has dropped since then is none of
them, and the outcome says so before the next status does.
"""

from collections.abc import Collection

from tristream.wire.events import Part, PartStatus
from tristream.wire.events.parts import OPEN_GROUPS


class WaitingGroups:
    """Follows the open groups of each source."""

    def __init__(self) -> None:
        self._told_ns = 0
        self._open: dict[str, int] = {}
        self._dropped_ns: dict[str, list[int]] = {}
        """When groups were dropped that the newest status may still count, by source."""

    def observe_status(self, status: PartStatus) -> None:
        """Take the status of any process."""
        if status.part is not Part.ASSEMBLER or status.created_ns < self._told_ns:
            return
        self._told_ns = status.created_ns
        self._open = {
            name.removeprefix(OPEN_GROUPS): int(number)
            for name, number in status.measures.items()
            if name.startswith(OPEN_GROUPS)
        }
        self._dropped_ns = {
            source: [dropped_ns for dropped_ns in times if dropped_ns > self._told_ns]
            for source, times in self._dropped_ns.items()
        }

    def observe_dropped(self, source: str, created_ns: int) -> None:
        """A group was dropped."""
        if created_ns > self._told_ns:
            self._dropped_ns.setdefault(source, []).append(created_ns)

    def count(self, sources: Collection[str]) -> int:
        """Open groups of some sources together."""
        return sum(max(0, self._open.get(source, 0) - len(self._dropped_ns.get(source, ()))) for source in sources)

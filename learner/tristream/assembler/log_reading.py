"""Reading the log: facts as they come, and marks that tell how far it is read for certain.

A mark is taken when the end of the log matters, one at a time:

- at the start, since nothing may be decided before what is there is read;
- when groups are overdue, since what completes them may be on the log already;
- when this process has fallen behind, or was frozen: partitions are then read one after the other, and groups of a
  partition that was not read yet must not be passed over.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass

from tristream.assembler.decoding import FACT_TOPICS, STATUS_FACTS
from tristream.assembler.facts import Fact, StatusFact
from tristream.assembler.join import Position
from tristream.runtime.bus.protocol import Bus, Mark

MAX_RECORDS = 2000
"""Most records taken at once; where there are so many, there may be more."""
STALL_SECONDS = 1.0
"""Longest time between two polls after which the log is still taken for read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Polled:
    """What one poll gave."""

    facts: list[tuple[Position, Fact]]
    statuses: list[StatusFact]
    passed_seconds: float | None
    """Time of the mark that this poll passed, if it passed one: up to then the log is read."""


class LogReading:
    """The log from some offsets on; all but ``is_behind`` belongs to one thread."""

    def __init__(self, bus: Bus, starts: Mapping[tuple[str, int], int]) -> None:
        self._reader = bus.reader(FACT_TOPICS, offsets=starts)
        self._mark: tuple[Mark, float] | None = (self._reader.mark_end(), 0.0)
        self._polled_at = time.monotonic()
        self.is_behind = True
        """Whether there may be records that were on the log some time ago and are not read yet."""

    def poll(self, timeout_seconds: float, *, now_seconds: float, is_overdue: bool) -> Polled:
        """Take what comes next.

        Args:
            timeout_seconds: how long to wait if nothing is there.
            now_seconds: time by which groups become overdue.
            is_overdue: whether groups are, so that a mark is needed.

        Raises:
            BusError: the log could not be read, or marked.
        """
        gap_seconds = time.monotonic() - self._polled_at
        if self._mark is None and (is_overdue or self.is_behind or gap_seconds > STALL_SECONDS):
            self._mark = (self._reader.mark_end(), now_seconds)
            self.is_behind = True
        began = time.monotonic()
        records = self._reader.poll(timeout_seconds, MAX_RECORDS)
        self._polled_at = time.monotonic()
        was_frozen = self._polled_at - began - timeout_seconds > STALL_SECONDS
        passed_seconds = self._pass_mark()
        if was_frozen or (passed_seconds is None and len(records) >= MAX_RECORDS):
            self.is_behind = True
        facts: list[tuple[Position, Fact]] = []
        statuses: list[StatusFact] = []
        for record in records:
            if record.topic == STATUS_FACTS.name:
                statuses.append(record.event)
            else:
                facts.append(((record.topic, record.partition, record.offset), record.event))
        return Polled(facts=facts, statuses=statuses, passed_seconds=passed_seconds)

    def close(self) -> None:
        """Release the connection."""
        self._reader.close()

    def _pass_mark(self) -> float | None:
        if self._mark is None or not self._reader.has_passed(self._mark[0]):
            return None
        (_, seconds), self._mark = self._mark, None
        self.is_behind = False
        return seconds

"""Which process holds a part of which a run has one, as the order of their statuses on the log says.

Everybody reads the same order, so everybody comes to the same answer:

- A process *holds* the part under the epoch of its statuses. The greatest epoch counts; whoever has an older one is
  superseded.
- A process *claims* it with a status that names a greater epoch than any before. Of several claims the first on the log
  wins; whoever finds another one before its own begins again, and then finds the part taken.
- A holder, or whoever claims the part, *lives* while its statuses keep coming. The part is free once the state of the
  holder is ``DONE``, once it was silent for long enough on the ``LogClock``, or if it was a process of this machine
  that is gone.

The log of the statuses is compacted: of each process the newest one is left. So each status of a claimant names the
newest epoch that it knows, and no epoch is given twice, even if the holder's name has passed to a new process.
"""

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass

from tristream.runtime.log_clock import LogClock
from tristream.runtime.status import PartReporter, instance_name
from tristream.wire.events import PartState, PartStatus

CLAIM_MEASURE = "claimed_epoch"
"""Measure of a status that claims the part."""
KNOWN_MEASURE = "newest_epoch"
"""Measure of a claimant's statuses: the newest epoch that it knows."""
ROUND_MEASURE = "claim_round"
"""Measure of a claimant's statuses: a number by which it knows them when they come back."""
MOST_EPOCH = 2**52
"""A status with a greater epoch is none of ours."""


def claim_measures(known_epoch: int, claim_round: int, claimed_epoch: int = 0) -> Mapping[str, float]:
    """What a claimant adds to its statuses."""
    claim = {CLAIM_MEASURE: float(claimed_epoch)} if claimed_epoch else {}
    return {KNOWN_MEASURE: float(known_epoch), ROUND_MEASURE: float(claim_round), **claim}


def claimed_epoch(measures: Mapping[str, float]) -> int:
    """Epoch that a status of these measures claims; 0 if it claims none."""
    return _whole_measure(measures, CLAIM_MEASURE)


def is_of_part(status: PartStatus, reporter: PartReporter) -> bool:
    """Whether a status is one of the same part of the same run, with an epoch that can be."""
    return status.run == reporter.run and status.part is reporter.part and 0 <= status.epoch <= MOST_EPOCH


def is_gone(instance: str) -> bool:
    """Whether a process is known to be gone: it was one of this machine, and there is none of its number."""
    number = instance.rpartition("-")[2]
    if not number.isdecimal() or instance != instance_name(int(number)):
        return False
    try:
        os.kill(int(number), 0)
    except ProcessLookupError:
        return True
    except (PermissionError, OverflowError):
        return False
    return False


@dataclass(slots=True)
class _Other:
    """What is known of another process of the part."""

    status: PartStatus
    heard_at: float
    """When on the log clock it was heard last."""
    first_heard: float | None = None
    """When it was heard first since this process follows the log live; seconds of the monotonic clock."""
    lives: bool = False
    """Whether it was heard again some time after that."""


class Claims:
    """What one process knows of who holds its part; it takes the statuses in the order of the log."""

    def __init__(self, reporter: PartReporter, clock: LogClock) -> None:
        self.newest_epoch = 0
        """Greatest epoch that anybody held or claimed."""
        self.held_epoch = 0
        """Greatest epoch that anybody held."""
        self.has_claimed = False
        """Whether this process's claim is on the log, and no other was there before it."""
        self._reporter = reporter
        self._clock = clock
        self._num_standstills = 0
        self._others: dict[str, _Other] = {}
        self._is_live = False
        self._claim = 0

    def is_echo(self, status: PartStatus, claim_round: int) -> bool:
        """Whether it is a status of this process and this round."""
        return self._reporter.is_own(status) and _whole_measure(status.measures, ROUND_MEASURE) == claim_round

    def follow_live(self) -> None:
        """The log was read to its end: whoever is heard from here on is there."""
        self._is_live = True

    def begin_claim(self, above: int) -> int:
        """This process is about to claim an epoch; returns which: greater than all known ones, and than ``above``."""
        self._claim, self.has_claimed = max(self.newest_epoch, above) + 1, False
        return self._claim

    def take(self, status: PartStatus) -> None:
        """Take the next status of the log; those of other runs and parts, and void ones, are left aside."""
        reporter = self._reporter
        if not is_of_part(status, reporter):
            return
        if reporter.is_own(status):
            self.has_claimed |= 0 < self._claim == claimed_epoch(status.measures)
        else:
            if self._contests(status):
                self._claim = 0
            self._hear(status)
        self.held_epoch = max(self.held_epoch, status.epoch)
        self.newest_epoch = max(
            self.newest_epoch,
            status.epoch,
            claimed_epoch(status.measures),
            _whole_measure(status.measures, KNOWN_MEASURE),
        )

    def find_contenders(self, silence_seconds: float) -> list[PartStatus]:
        """Newest statuses of the others that hold or claim the part, as far as they are not known to be dead."""
        if self._clock.num_standstills != self._num_standstills:
            self._num_standstills = self._clock.num_standstills
            for other in self._others.values():  # nobody could be heard, so nobody was silent
                other.heard_at = self._clock.seconds
        return [
            other.status
            for other in self._others.values()
            if self._may_have_it(other.status)
            and self._clock.seconds - other.heard_at < silence_seconds
            and not is_gone(other.status.instance)
        ]

    def lives(self, status: PartStatus) -> bool:
        """Whether the process of a status is known to live."""
        other = self._others.get(status.instance)
        return other is not None and other.lives

    def _may_have_it(self, status: PartStatus) -> bool:
        if status.state is PartState.DONE:
            return False
        return 0 < status.epoch == self.held_epoch or claimed_epoch(status.measures) > self.held_epoch

    def _contests(self, status: PartStatus) -> bool:
        """Whether a status that comes before this process's own claim on the log says that it came too late."""
        if self.has_claimed or status.state is PartState.DONE:
            return False
        is_namesake = status.instance == self._reporter.instance
        return claimed_epoch(status.measures) > 0 or (0 < status.epoch >= self.held_epoch and not is_namesake)

    def _hear(self, status: PartStatus) -> None:
        if status.instance == self._reporter.instance:  # an earlier process of this name is gone
            return
        other = self._others.get(status.instance)
        if other is None or other.status.started_ns != status.started_ns:
            other = self._others[status.instance] = _Other(status, self._clock.seconds)
        other.status, other.heard_at = status, self._clock.seconds
        if self._is_live:
            now = time.monotonic()
            other.first_heard = now if other.first_heard is None else other.first_heard
            other.lives = now - other.first_heard >= self._reporter.beat_seconds / 2


def _whole_measure(measures: Mapping[str, float], name: str) -> int:
    value = measures.get(name, 0.0)
    return int(value) if 0 <= value <= MOST_EPOCH else 0

"""The ledger: which training groups are settled, and where on the log the rest begins."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """Group numbers ``start`` to ``end`` (exclusive)."""

    start: int
    end: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PartitionOffset:
    """Where reading of one partition may start."""

    topic: str
    """Topic name without prefix and run, such as ``rollouts``."""
    partition: int
    offset: int


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluatedRound:
    """The answers of one evaluation round that have their outcome."""

    eval_step: int
    eval_attempt: int
    numbers: tuple[Interval, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class LogPosition:
    """Where reading of the log must start so that every unsettled group is seen whole."""

    log_id: str = ""
    """Identity of the log that the offsets belong to; they mean nothing on another one."""
    offsets: tuple[PartitionOffset, ...] = ()
    evaluated: tuple[EvaluatedRound, ...] = ()
    """Newest evaluation rounds that have answers already; every round before them is answered."""

    def offsets_on(self, log_id: str) -> dict[tuple[str, int], int]:
        """Offsets by topic and partition, if they belong to the log of this identity; else none."""
        if not log_id or log_id != self.log_id:
            return {}
        return {(offset.topic, offset.partition): offset.offset for offset in self.offsets}


@dataclass(frozen=True, slots=True, kw_only=True)
class Ledger:
    """Which groups are settled, as of one step; its size depends on what is in flight, not on the length of the run."""

    step: int
    settled: tuple[Interval, ...] = ()
    """Trained and dropped ones together, so that it is one interval and a few more for what is in flight."""
    num_dropped: int = 0
    """How many of the settled groups were dropped."""
    dropped_checksum: int = 0
    """``number_checksum`` of the numbers of those."""
    epoch: int = 0
    """Epoch of the learner that wrote it."""
    position: LogPosition = LogPosition()
    """Where the rest begins on the log."""

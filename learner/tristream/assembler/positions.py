"""Where on the log an assembly stands, and where another one would have to start."""

from collections.abc import Iterable, Mapping

from tristream.assembler.join import Position
from tristream.wire.events import EvaluatedRound, LogPosition, PartitionOffset


class Positions:
    """What comes next in each partition."""

    def __init__(self, log_id: str, starts: Mapping[tuple[str, int], int]) -> None:
        self._log_id = log_id
        self._next: dict[tuple[str, int], int] = dict(starts)

    def take(self, position: Position) -> None:
        """A record was observed."""
        topic, partition, offset = position
        self._next[topic, partition] = offset + 1

    def before(
        self, unsettled: Iterable[Mapping[tuple[str, int], int]], evaluated: tuple[EvaluatedRound, ...]
    ) -> LogPosition:
        """Where reading must start.

        Args:
            unsettled: first offsets of each group that has to be seen whole.
            evaluated: the evaluation rounds that need not be.
        """
        starts = dict(self._next)
        for first_offsets in unsettled:
            for key, offset in first_offsets.items():
                starts[key] = min(starts.get(key, offset), offset)
        return LogPosition(
            log_id=self._log_id,
            offsets=tuple(
                PartitionOffset(topic=topic, partition=partition, offset=offset)
                for (topic, partition), offset in sorted(starts.items())
            ),
            evaluated=evaluated,
        )

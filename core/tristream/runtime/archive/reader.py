"""Reading the archive like a topic: a bus that cannot be written, and its reader.

Partitions keep their order; between partitions blocks come in the order of their times, so that what happened at one
time is read at one time, and what a reader must remember stays small. A log is read to its end before the next begins.
"""

import logging
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from functools import partial
from heapq import merge
from itertools import chain, islice
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from tristream.runtime.archive.blocks import Block, read_blocks, unpack_records
from tristream.runtime.archive.writer import SUFFIX, find_logs
from tristream.runtime.bus.epochs import LOOK_BACK_RECORDS, Epochs
from tristream.runtime.bus.protocol import BusError, Mark, Record, Tap
from tristream.runtime.bus.records import LogStart, decode_record, is_mark
from tristream.wire.topics import Topic

EventT = TypeVar("EventT")

LOG = logging.getLogger("tristream.archive")

Partition = tuple[str, int]
GiveUp = Callable[[Record[bytes], str], None]
"""Is told of a record that is void or cannot be decoded, and why."""


def _log_refusal(record: Record[bytes], error: str) -> None:
    LOG.info("%s partition %d offset %d is left out: %s", record.topic, record.partition, record.offset, error)


class ArchiveBus:
    """The records that the archive of a run keeps; reading changes nothing.

    Args:
        folder: the archive.
        run: id of the run.
        give_up: told of each record that is void or cannot be decoded.
    """

    def __init__(self, folder: Path, run: str, *, give_up: GiveUp = _log_refusal) -> None:
        self.run = run
        self.folder = folder
        self._give_up = give_up
        self._logs = find_logs(folder)

    @property
    def address(self) -> str:
        """The folder of the archive."""
        return str(self.folder)

    @property
    def silent_seconds(self) -> float:
        """Nothing is published, so nothing is waited for."""
        return 0.0

    @property
    def lags(self) -> Mapping[str, int]:
        """It does not grow."""
        return {}

    @property
    def log_ids(self) -> tuple[str, ...]:
        """The logs in the order in which they were begun."""
        return tuple(self._logs)

    def on_log(self, log_id: str) -> "ArchiveBus":
        """The records of one log alone.

        Raises:
            KeyError: the archive does not have it.
        """
        other = ArchiveBus(self.folder, self.run, give_up=self._give_up)
        other._logs = {log_id: self._logs[log_id]}
        return other

    def log_id(self) -> str:
        """Identity of the newest log; empty if there is none."""
        return next(reversed(self._logs), "")

    def reader(
        self,
        topics: Sequence[Topic[Any]],
        *,
        group: str | None = None,
        offsets: Mapping[Partition, int] | None = None,
        tap: Tap | None = None,
        is_patient: bool = False,
    ) -> "ArchiveReader":
        """Read topics from their beginning; offsets are those of the newest log, and older logs are left out then."""
        logs = list(self._logs.values())
        return ArchiveReader(self, topics, logs[-1:] if offsets else logs, dict(offsets or {}), tap)

    def dead_letter(self, record: Record[bytes], error: str) -> None:
        """Tell of a record that could not be handled; nothing is published."""
        self._give_up(record, error)

    def create_topics(self) -> None:
        """Nothing to do: what is there is there."""

    def take_over(self, topics: Sequence[Topic[Any]], epoch: int) -> None:
        """An archive has no owner.

        Raises:
            BusError: always.
        """
        self._refuse()

    def publish(self, topic: Topic[EventT], event: EventT) -> "Future[None]":
        """An archive is not written through its bus.

        Raises:
            BusError: always.
        """
        self._refuse()

    def tell(self, topic: Topic[EventT], event: EventT) -> None:
        """Nobody listens."""

    def flush(self, timeout_seconds: float | None = None) -> None:
        """Nothing to do: nothing was published."""

    def close(self) -> None:
        """Nothing to release."""

    def _refuse(self) -> NoReturn:
        raise BusError(f"{self.folder} is an archive, which is read only")


class ArchiveReader:
    """Reads topics of an archive; what is appended while it reads may be read too."""

    def __init__(
        self,
        bus: ArchiveBus,
        topics: Sequence[Topic[Any]],
        logs: Sequence[Path],
        offsets: Mapping[Partition, int],
        tap: Tap | None,
    ) -> None:
        self._bus = bus
        self._topics = {topic.name: topic for topic in topics}
        self._offsets = offsets
        self._tap = tap
        self._positions: dict[Partition, int] = {}
        self._records: Iterator[Record[Any]] = chain.from_iterable(map(self._read_log, logs))
        self._is_exhausted = False
        self._is_paused = False

    def poll(self, timeout_seconds: float = 0.1, max_records: int = 500) -> Sequence[Record[Any]]:
        """The next records, or none at the end."""
        if self._is_paused:
            return ()
        records = list(islice(self._records, max_records))
        self._is_exhausted = len(records) < max_records
        return records

    def read_to_end(self, timeout_seconds: float = 60.0) -> Iterator[Record[Any]]:
        """All records that are left, as they are read."""
        yield from self._records
        self._is_exhausted = True

    def mark_end(self) -> Mark:
        """Mark the end of the archive."""
        return Mark(uuid.uuid4().hex)

    def has_passed(self, mark: Mark) -> bool:
        """Whether everything was read."""
        return self._is_exhausted

    def positions(self) -> Mapping[Partition, int]:
        """Offset of the next record of each partition of the log that is being read."""
        return dict(self._positions)

    def commit(self, positions: Mapping[tuple[str, int], int] | None = None) -> None:
        """Nothing to do: an archive remembers no reader."""

    def pause(self) -> None:
        """Poll nothing until resumed."""
        self._is_paused = True

    def resume(self) -> None:
        """End a pause."""
        self._is_paused = False

    def close(self) -> None:
        """Read no more."""
        self._records = iter(())

    def _read_log(self, folder: Path) -> Iterator[Record[Any]]:
        epochs, log_start = Epochs(partial(_records_before, folder)), LogStart()
        self._positions = {}
        for raw in self._read_raw(folder):
            self._positions[raw.topic, raw.partition] = raw.offset + 1
            if self._tap is not None:
                self._tap(raw)
            marks = is_mark(raw)
            is_first = log_start.is_first(raw.topic, raw.partition, raw.offset, is_barrier=marks)
            topic = self._topics[raw.topic]
            void = epochs.find_void(topic, raw)
            if void is not None:
                self._bus.dead_letter(raw, void)
            if marks or void is not None:
                continue
            record = decode_record(self._bus, topic, raw, is_first=is_first)
            if record is not None:
                yield record

    def _read_raw(self, folder: Path) -> Iterator[Record[bytes]]:
        sources = []
        for path in sorted(folder.glob(f"*{SUFFIX}")):
            topic, _, number = path.name.removesuffix(SUFFIX).rpartition("-")
            if topic in self._topics and number.isdigit():
                sources.append(_blocks_of(path, topic, int(number), self._offsets.get((topic, int(number)), 0)))
        for block, topic, partition, from_offset in merge(*sources, key=lambda found: found[0].first_timestamp_ns):
            for record in unpack_records(block.payload, topic, partition):
                if record.offset >= from_offset:
                    yield record


def _blocks_of(path: Path, topic: str, partition: int, from_offset: int) -> Iterator[tuple[Block, str, int, int]]:
    return ((block, topic, partition, from_offset) for block in read_blocks(path, from_offset))


def _records_before(folder: Path, topic: str, partition: int, offset: int) -> Iterable[Record[bytes]]:
    """The last records of a partition before an offset."""
    first = max(0, offset - LOOK_BACK_RECORDS)
    for block in read_blocks(folder / f"{topic}-{partition}{SUFFIX}", first):
        if block.first_offset >= offset:
            return
        for record in unpack_records(block.payload, topic, partition):
            if first <= record.offset < offset:
                yield record

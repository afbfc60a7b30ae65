"""An in-memory bus: the same seam as Kafka, in one process. It ships, for tests and for measuring.

Records are encoded and decoded as on a broker, so that what passes here passes there.
"""

import threading
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from typing import Any, TypeVar
from zlib import crc32

from tristream.runtime.bus.epochs import LOOK_BACK_RECORDS, Epochs
from tristream.runtime.bus.lags import ReaderLags
from tristream.runtime.bus.protocol import BusError, EventTooLargeError, Mark, Record, Tap
from tristream.runtime.bus.records import (
    LogStart,
    check_size,
    decode_record,
    is_mark,
    make_dead_letter,
)
from tristream.wire.codecs.base import to_utf8
from tristream.wire.topics import (
    ALL_TOPICS,
    DEAD_LETTERS,
    EPOCH_HEADER,
    FENCE_HEADER,
    Topic,
    record_headers,
)

EventT = TypeVar("EventT")


class MemoryBus:
    """One run's topics in memory; share one instance among the parts of a test."""

    def __init__(self, run: str, *, part: str = "memory", num_partitions: int = 4) -> None:
        self.run = run
        self._part = part
        self._logs: dict[str, list[list[Record[bytes]]]] = {
            topic.name: [[] for _ in range(1 if topic.single_partition else num_partitions)] for topic in ALL_TOPICS
        }
        self._commits: dict[tuple[str, str, int], int] = {}
        self._condition = threading.Condition()
        self._log_id = uuid.uuid4().hex
        self._epochs: dict[str, int] = {}
        self._readers: list[MemoryReader] = []
        self._reader_lags = ReaderLags()

    def as_part(self, part: str) -> "MemoryBus":
        """The same log for another part: with epochs of its own."""
        other = MemoryBus(self.run, part=part)
        other._logs, other._commits, other._condition = self._logs, self._commits, self._condition
        other._log_id = self._log_id
        return other

    def create_topics(self) -> None:
        """Nothing to do: the topics exist."""

    def publish(self, topic: Topic[EventT], event: EventT) -> "Future[None]":
        """Append an event; it is acknowledged at once."""
        headers = {name: to_utf8(value) for name, value in record_headers(topic, event).items()}
        if topic.name in self._epochs:
            headers[EPOCH_HEADER] = str(self._epochs[topic.name]).encode()
        value = topic.codec.encode(event)
        key = to_utf8(topic.key(event))
        check_size(topic, key, value, headers)
        self.publish_raw(topic, key.decode(), value, headers)
        future: Future[None] = Future()
        future.set_result(None)
        return future

    def log_id(self) -> str:
        """Identity of this bus."""
        return self._log_id

    def take_over(self, topics: Sequence[Topic[Any]], epoch: int) -> None:
        """Write these topics under an epoch from now on; what earlier ones write after this is void."""
        for topic in topics:
            for number in range(len(self._logs[topic.name])):
                self._append(topic, number, "fence", b"", {FENCE_HEADER: str(epoch).encode()})
            self._epochs[topic.name] = epoch

    def tell(self, topic: Topic[EventT], event: EventT) -> None:
        """Append an event; only one that is too large is lost."""
        with suppress(EventTooLargeError):
            self.publish(topic, event)

    def publish_raw(self, topic: Topic[Any], key: str, value: bytes, headers: Mapping[str, bytes]) -> None:
        """Append bytes as they are, as a foreign writer would."""
        number = crc32(key.encode(errors="surrogateescape")) % len(self._logs[topic.name])
        self._append(topic, number, key, value, headers)

    @property
    def address(self) -> str:
        """It is in this process."""
        return "memory"

    @property
    def silent_seconds(self) -> float:
        """Nothing is ever on its way."""
        return 0.0

    @property
    def lags(self) -> Mapping[str, int]:
        """Records that its readers have not read yet, by topic."""
        with self._condition:
            for reader in self._readers:
                self._reader_lags.note(reader, reader.lags())
            return self._reader_lags.total()

    def flush(self, timeout_seconds: float | None = None) -> None:
        """Nothing to do: every event is acknowledged."""

    def reader(
        self,
        topics: Sequence[Topic[Any]],
        *,
        group: str | None = None,
        offsets: Mapping[tuple[str, int], int] | None = None,
        tap: Tap | None = None,
        is_patient: bool = False,
    ) -> "MemoryReader":
        """Read topics from the beginning, from a group's commits, or from offsets."""
        opened = MemoryReader(self, topics, group, dict(offsets or {}), tap)
        self._readers.append(opened)
        return opened

    def dead_letter(self, record: Record[bytes], error: str) -> None:
        """Publish a record that could not be handled, with the reason."""
        self.publish(DEAD_LETTERS, make_dead_letter(self.run, self._part, record, error))

    def close(self) -> None:
        """Nothing to release."""

    def _append(self, topic: Topic[Any], number: int, key: str, value: bytes, headers: Mapping[str, bytes]) -> None:
        with self._condition:
            log = self._logs[topic.name][number]
            log.append(
                Record(
                    topic=topic.name,
                    partition=number,
                    offset=len(log),
                    key=key,
                    event=value,
                    headers=dict(headers),
                    timestamp_ns=time.time_ns(),
                )
            )
            self._condition.notify_all()


class MemoryReader:
    """Reads a MemoryBus; every reader of a group has all partitions."""

    def __init__(
        self,
        bus: MemoryBus,
        topics: Sequence[Topic[Any]],
        group: str | None,
        offsets: dict[tuple[str, int], int],
        tap: Tap | None,
    ) -> None:
        self._bus = bus
        self._tap = tap
        self._topics = {topic.name: topic for topic in topics}
        self._group = group
        self._positions = {
            (name, partition): self._find_start(name, partition, offsets.get((name, partition), 0))
            for name in self._topics
            for partition in range(len(bus._logs[name]))
        }
        self._paused = False
        self._log_start = LogStart()
        self._epochs = Epochs(self._look_back)
        self._marks: dict[str, dict[tuple[str, int], int]] = {}

    def poll(self, timeout_seconds: float = 0.1, max_records: int = 500) -> Sequence[Record[Any]]:
        """The next records, or none after the timeout."""
        deadline = time.monotonic() + timeout_seconds
        while True:
            raw = [] if self._paused else self._take(max_records)
            records = [record for record in map(self._decode, raw) if record is not None]
            remaining = deadline - time.monotonic()
            if records or remaining <= 0:
                return records
            with self._bus._condition:
                self._bus._condition.wait(min(remaining, 0.05))

    def read_to_end(self, timeout_seconds: float = 60.0) -> Iterator[Record[Any]]:
        """The records up to those published before the first was asked for, as they come.

        Raises:
            BusError: nothing came for so long, and the end was not reached.
        """
        mark, deadline = self.mark_end(), time.monotonic() + timeout_seconds
        while not self.has_passed(mark):
            polled = self.poll(0.0, max_records=10_000)
            yield from polled
            if polled:
                deadline = time.monotonic() + timeout_seconds
            if time.monotonic() > deadline:
                del self._marks[mark.token]
                raise BusError(f"end of {', '.join(self._topics)} not reached in {timeout_seconds:.0f} s")

    def mark_end(self) -> Mark:
        """Mark where the log ends now."""
        token = uuid.uuid4().hex
        self._marks[token] = {key: len(self._bus._logs[key[0]][key[1]]) for key in self._positions}
        return Mark(token)

    def has_passed(self, mark: Mark) -> bool:
        """Whether everything before the mark was polled."""
        ends = self._marks.get(mark.token, {})
        if any(self._positions[key] < end for key, end in ends.items()):
            return False
        self._marks.pop(mark.token, None)
        return True

    def positions(self) -> Mapping[tuple[str, int], int]:
        """Offset of the next record of each partition, by topic and partition."""
        return dict(self._positions)

    def commit(self, positions: Mapping[tuple[str, int], int] | None = None) -> None:
        """Remember that all polled records are handled, or those before some positions."""
        for (name, partition), position in (self._positions if positions is None else positions).items():
            if (name, partition) in self._positions:
                self._bus._commits[(self._group or "", name, partition)] = position

    def pause(self) -> None:
        """Poll nothing until resumed."""
        self._paused = True

    def resume(self) -> None:
        """End a pause."""
        self._paused = False

    def lags(self) -> Mapping[str, int]:
        """Records that it has not read yet, by topic."""
        lags = dict.fromkeys(self._topics, 0)
        for (name, partition), position in self._positions.items():
            lags[name] += len(self._bus._logs[name][partition]) - position
        return lags

    def close(self) -> None:
        """Leave the bus."""
        if self in self._bus._readers:
            self._bus._readers.remove(self)
            self._bus._reader_lags.forget(self)

    def _find_start(self, name: str, partition: int, offset: int) -> int:
        offset = self._bus._commits.get((self._group or "", name, partition), offset)
        return offset if offset <= len(self._bus._logs[name][partition]) else 0

    def _look_back(self, name: str, partition: int, offset: int) -> list[Record[bytes]]:
        return self._bus._logs[name][partition][max(offset - LOOK_BACK_RECORDS, 0) : offset]

    def _take(self, max_records: int) -> list[Record[bytes]]:
        with self._bus._condition:
            taken: list[Record[bytes]] = []
            for (name, partition), position in self._positions.items():
                records = self._bus._logs[name][partition][position : position + max_records - len(taken)]
                self._positions[(name, partition)] = position + len(records)
                taken.extend(records)
            return taken

    def _decode(self, record: Record[bytes]) -> Record[Any] | None:
        if self._tap is not None:
            self._tap(record)
        marks = is_mark(record)
        is_first = self._log_start.is_first(record.topic, record.partition, record.offset, is_barrier=marks)
        topic = self._topics[record.topic]
        void = self._epochs.find_void(topic, record)
        if void is not None:
            self._bus.dead_letter(record, void)
        if marks or void is not None:
            return None
        return decode_record(self._bus, topic, record, is_first=is_first)

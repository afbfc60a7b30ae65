"""An in-memory bus: the same seam as Kafka, in one process. It ships, for tests and for measuring.

Records are encoded and decoded as on a broker, so that what passes here passes there.
"""

import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from typing import Any, TypeVar
from zlib import crc32

from tristream.runtime.bus.protocol import BusError, Record
from tristream.runtime.bus.records import LogStart, decode_record, make_dead_letter
from tristream.wire.topics import ALL_TOPICS, DEAD_LETTERS, Topic, record_headers

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

    def create_topics(self) -> None:
        """Nothing to do: the topics exist."""

    def publish(self, topic: Topic[EventT], event: EventT) -> "Future[None]":
        """Append an event; it is acknowledged at once."""
        headers = {name: value.encode() for name, value in record_headers(topic, event).items()}
        self.publish_raw(topic, topic.key(event), topic.codec.encode(event), headers)
        future: Future[None] = Future()
        future.set_result(None)
        return future

    def tell(self, topic: Topic[EventT], event: EventT) -> None:
        """Append an event; nothing is lost in memory."""
        self.publish(topic, event)

    def publish_raw(self, topic: Topic[Any], key: str, value: bytes, headers: Mapping[str, bytes]) -> None:
        """Append bytes as they are, as a foreign writer would."""
        partitions = self._logs[topic.name]
        number = crc32(key.encode()) % len(partitions)
        with self._condition:
            log = partitions[number]
            log.append(
                Record(topic=topic.name, partition=number, offset=len(log), key=key, event=value, headers=dict(headers))
            )
            self._condition.notify_all()

    def flush(self, timeout_seconds: float = 60.0) -> None:
        """Nothing to do: every event is acknowledged."""

    def reader(
        self,
        topics: Sequence[Topic[Any]],
        *,
        group: str | None = None,
        offsets: Mapping[tuple[str, int], int] | None = None,
    ) -> "MemoryReader":
        """Read topics from the beginning, from a group's commits, or from offsets."""
        return MemoryReader(self, topics, group, dict(offsets or {}))

    def dead_letter(self, record: Record[bytes], error: str) -> None:
        """Publish a record that could not be handled, with the reason."""
        self.publish(DEAD_LETTERS, make_dead_letter(self.run, self._part, record, error))

    def close(self) -> None:
        """Nothing to release."""


class MemoryReader:
    """Reads a MemoryBus; every reader of a group has all partitions."""

    def __init__(
        self, bus: MemoryBus, topics: Sequence[Topic[Any]], group: str | None, offsets: dict[tuple[str, int], int]
    ) -> None:
        self._bus = bus
        self._topics = {topic.name: topic for topic in topics}
        self._group = group
        self._positions = {
            (name, partition): bus._commits.get((group or "", name, partition), offsets.get((name, partition), 0))
            for name in self._topics
            for partition in range(len(bus._logs[name]))
        }
        self._paused = False
        self._log_start = LogStart()

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

    def read_to_end(self, timeout_seconds: float = 60.0) -> Sequence[Record[Any]]:
        """All records published before this call.

        Raises:
            BusError: nothing came for so long, and the end was not reached.
        """
        deadline = time.monotonic() + timeout_seconds
        ends = {key: len(self._bus._logs[key[0]][key[1]]) for key in self._positions}
        records: list[Record[Any]] = []
        while any(self._positions[key] < end for key, end in ends.items()):
            polled = self.poll(0.0, max_records=10_000)
            records.extend(polled)
            if polled:
                deadline = time.monotonic() + timeout_seconds
            if time.monotonic() > deadline:
                raise BusError(f"end of {', '.join(self._topics)} not reached in {timeout_seconds:.0f} s")
        return records

    def commit(self) -> None:
        """Remember that all polled records are handled."""
        for (name, partition), position in self._positions.items():
            self._bus._commits[(self._group or "", name, partition)] = position

    def pause(self) -> None:
        """Poll nothing until resumed."""
        self._paused = True

    def resume(self) -> None:
        """End a pause."""
        self._paused = False

    def close(self) -> None:
        """Nothing to release."""

    def _take(self, max_records: int) -> list[Record[bytes]]:
        with self._bus._condition:
            taken: list[Record[bytes]] = []
            for (name, partition), position in self._positions.items():
                records = self._bus._logs[name][partition][position : position + max_records - len(taken)]
                self._positions[(name, partition)] = position + len(records)
                taken.extend(records)
            return taken

    def _decode(self, record: Record[bytes]) -> Record[Any] | None:
        is_first = self._log_start.is_first(record.topic, record.partition, record.offset, is_barrier=False)
        return decode_record(self._bus, self._topics[record.topic], record, is_first=is_first)

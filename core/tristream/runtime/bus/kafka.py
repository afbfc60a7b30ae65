"""The bus on Kafka, through kafka-python.

Producing is idempotent with acks from all in-sync replicas; the bytes in flight are bounded here
because kafka-python does not bound them. Consumers commit by hand, after the caller handled what it
polled. The end of a topic is found by a barrier record of our own, because not every broker of the
protocol reports end offsets right.
"""

import logging
import threading
import time
import uuid
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from typing import Any, TypeVar

from kafka import KafkaConsumer, KafkaProducer
from kafka.admin import KafkaAdminClient
from kafka.errors import CommitFailedError, KafkaError, KafkaTimeoutError, TopicAlreadyExistsError
from kafka.structs import OffsetAndMetadata, TopicPartition

from tristream.config.bus import BusSection
from tristream.runtime.bus.protocol import BusError, Record
from tristream.runtime.bus.records import LogStart, decode_record, make_dead_letter
from tristream.runtime.errors import UserError
from tristream.runtime.hooks import reach
from tristream.wire.topics import ALL_TOPICS, BARRIER_HEADER, DEAD_LETTERS, MAX_RECORD_BYTES, Topic, record_headers

EventT = TypeVar("EventT")

LOG = logging.getLogger("tristream.bus")

COMPACTED_SEGMENT_MS = 600_000
"""Age at which a segment of a compacted topic is closed: the open one is never compacted, and every reader reads it."""
JOIN_POLL_SECONDS = 0.5
"""Shortest poll of a member that has no partitions yet: with much shorter ones it never joins its group."""


class KafkaBus:
    """One run's topics on Kafka brokers, for one part."""

    def __init__(self, run: str, settings: BusSection, part: str) -> None:
        self.run = run
        self._settings = settings
        self._part = part
        if not settings.bootstrap_servers:
            raise UserError(
                "no broker is given",
                where="[bus] bootstrap_servers",
                remedy="give HOST:PORT, or let `tristream up` start a broker",
            )
        self._producer = _connect(
            KafkaProducer,
            self._settings,
            client_id=f"{self.run}-{part}",
            acks="all",
            enable_idempotence=True,
            linger_ms=2,
            batch_size=256 * 1024,
            max_request_size=MAX_RECORD_BYTES,
            max_block_ms=30_000,
            delivery_timeout_ms=int(settings.delivery_timeout_seconds * 1000),
            request_timeout_ms=int(min(30.0, settings.delivery_timeout_seconds / 2) * 1000),
            compression_type=None,
        )
        self._room = threading.Condition()
        self._in_flight_bytes = 0
        self._failure: BaseException | None = None

    def full_name(self, topic: Topic[Any]) -> str:
        """The topic's name on the broker."""
        return topic.full_name(self._settings.prefix, self.run)

    def create_topics(self) -> None:
        """Create the run's topics that do not exist yet."""
        admin = _connect(KafkaAdminClient, self._settings, client_id=f"{self.run}-{self._part}-admin")
        try:
            existing = set(admin.list_topics())
            for topic in ALL_TOPICS:
                name = self.full_name(topic)
                if name in existing:
                    continue
                try:
                    admin.create_topics({name: _topic_request(topic, self._settings)})
                except TopicAlreadyExistsError:
                    LOG.debug("topic %s exists", name)
        finally:
            admin.close()

    def publish(self, topic: Topic[EventT], event: EventT) -> "Future[None]":
        """Send an event; waits only while too many bytes are in flight.

        Raises:
            BusError: an earlier record was lost for good.
        """
        reach(f"publish.{topic.name}")
        headers = [(name, value.encode()) for name, value in record_headers(topic, event).items()]
        return self._send(self.full_name(topic), topic.codec.encode(event), topic.key(event).encode(), headers)

    def tell(self, topic: Topic[EventT], event: EventT) -> None:
        """Send an event that may be lost; what becomes of it is no failure of the bus."""
        headers = [(name, value.encode()) for name, value in record_headers(topic, event).items()]
        name, value, key = self.full_name(topic), topic.codec.encode(event), topic.key(event).encode()
        try:
            future = self._producer.send(name, value=value, key=key, headers=headers)
        except KafkaError as error:
            LOG.debug("a record of %s is lost: %s", name, error)
            return
        future.add_errback(lambda error: LOG.debug("a record of %s is lost: %s", name, error))

    def flush(self, timeout_seconds: float = 60.0) -> None:
        """Wait until everything published is acknowledged.

        Raises:
            BusError: a record was not acknowledged.
        """
        reach("flush")
        try:
            self._producer.flush(timeout=timeout_seconds)
        except KafkaTimeoutError as error:
            raise BusError(f"records are not acknowledged after {timeout_seconds:.0f} s: {error}") from error
        self._raise_failure()

    def reader(
        self,
        topics: Sequence[Topic[Any]],
        *,
        group: str | None = None,
        offsets: Mapping[tuple[str, int], int] | None = None,
    ) -> "KafkaReader":
        """Read topics from the beginning, from a group's commits, or from offsets."""
        group_id = None if group is None else f"{self._settings.prefix}.{self.run}.{group}"
        consumer = _connect(
            KafkaConsumer,
            self._settings,
            client_id=f"{self.run}-{self._part}",
            group_id=group_id,
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            fetch_max_wait_ms=int(self._settings.fetch_wait_seconds * 1000),
            max_partition_fetch_bytes=MAX_RECORD_BYTES,
            session_timeout_ms=int(self._settings.session_timeout_seconds * 1000),
            heartbeat_interval_ms=int(self._settings.session_timeout_seconds * 1000 / 6),
            max_poll_interval_ms=1_800_000,
        )
        return KafkaReader(self, consumer, topics, group_id, dict(offsets or {}))

    def dead_letter(self, record: Record[bytes], error: str) -> None:
        """Publish a record that could not be handled, with the reason."""
        LOG.warning(
            "dead letter from %s partition %d offset %d: %s", record.topic, record.partition, record.offset, error
        )
        self.publish(DEAD_LETTERS, make_dead_letter(self.run, self._part, record, error))

    def publish_barrier(self, topic: Topic[Any], partitions: Sequence[int], token: str) -> None:
        """Mark where the given partitions end now.

        Raises:
            BusError: the marks were not acknowledged.
        """
        reach(f"barrier.{topic.name}")
        name, headers = self.full_name(topic), [(BARRIER_HEADER, token.encode())]
        try:
            for partition in partitions:
                self._producer.send(name, value=None, key=b"barrier", headers=headers, partition=partition)
        except KafkaError as error:
            raise BusError(f"cannot publish to {name}: {error}") from error
        self.flush()

    def close(self) -> None:
        """Flush and release the connections."""
        try:
            self._producer.close(timeout=10)
        except KafkaTimeoutError:
            LOG.warning("the broker did not acknowledge what was published last")

    def _send(self, name: str, value: bytes, key: bytes, headers: list[tuple[str, bytes]]) -> "Future[None]":
        size_bytes = len(value) + len(key)
        with self._room:
            while self._in_flight_bytes > 0 and self._in_flight_bytes + size_bytes > self._settings.max_in_flight_bytes:
                self._room.wait(1.0)
                self._raise_failure()
            self._raise_failure()
            self._in_flight_bytes += size_bytes
        delivered: Future[None] = Future()
        try:
            future = self._producer.send(name, value=value, key=key, headers=headers)
        except KafkaError as error:
            self._settle(size_bytes, delivered, error)
            raise BusError(f"cannot publish to {name}: {error}") from error
        future.add_callback(lambda _metadata: self._settle(size_bytes, delivered, None))
        future.add_errback(lambda error: self._settle(size_bytes, delivered, error))
        return delivered

    def _settle(self, size_bytes: int, delivered: "Future[None]", error: BaseException | None) -> None:
        with self._room:
            self._in_flight_bytes -= size_bytes
            self._failure = self._failure or error
            self._room.notify_all()
        if error is None:
            delivered.set_result(None)
        else:
            delivered.set_exception(error)

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise BusError(f"a record was not delivered: {self._failure}") from self._failure


class KafkaReader:
    """Reads topics with one consumer; used by one thread."""

    def __init__(
        self,
        bus: KafkaBus,
        consumer: Any,  # noqa: ANN401 - kafka-python has no types of its own
        topics: Sequence[Topic[Any]],
        group_id: str | None,
        offsets: dict[tuple[str, int], int],
    ) -> None:
        self._bus = bus
        self._consumer = consumer
        self._topics = {bus.full_name(topic): topic for topic in topics}
        self._paused = False
        self._barriers: set[tuple[str, int, str]] = set()
        self._log_start = LogStart()
        if group_id is None:
            self._assign_all(offsets)
        else:
            consumer.subscribe(list(self._topics))

    def poll(self, timeout_seconds: float = 0.1, max_records: int = 500) -> Sequence[Record[Any]]:
        """The next records, or none after the timeout."""
        if self._paused:  # partitions that moved here since the pause
            self._consumer.pause(*self._consumer.assignment())
        if not self._consumer.assignment():  # a member joins its group only while it polls
            timeout_seconds = max(timeout_seconds, JOIN_POLL_SECONDS)
        batches = self._consumer.poll(timeout_ms=int(timeout_seconds * 1000), max_records=max_records)
        records: list[Record[Any]] = []
        for partition, messages in batches.items():
            topic = self._topics[partition.topic]
            for message in messages:
                record = self._to_record(topic, message)
                if record is not None:
                    records.append(record)
        return records

    def read_to_end(self, timeout_seconds: float = 60.0) -> Sequence[Record[Any]]:
        """All records published before this call.

        Raises:
            BusError: nothing came for so long, and the end was not reached.
        """
        deadline = time.monotonic() + timeout_seconds
        records: list[Record[Any]] = []
        while not self._consumer.assignment():  # a group member joins while it polls
            records.extend(self.poll(0.1))
            self._check(deadline, timeout_seconds)
        token = uuid.uuid4().hex
        wanted = {(partition.topic, partition.partition) for partition in self._consumer.assignment()}
        for name, topic in self._topics.items():
            partitions = [number for wanted_name, number in wanted if wanted_name == name]
            self._bus.publish_barrier(topic, partitions, token)
        missing = {(name, partition, token) for name, partition in wanted}
        while not missing <= self._barriers:
            polled = self.poll(0.1, max_records=10_000)
            records.extend(polled)
            if polled:  # a long log is not a broker that is stuck
                deadline = time.monotonic() + timeout_seconds
            self._check(deadline, timeout_seconds)
        self._barriers -= missing
        return records

    def commit(self) -> None:
        """Remember, for the group, that all polled records are handled."""
        positions = {
            partition: OffsetAndMetadata(self._consumer.position(partition), "", -1)
            for partition in self._consumer.assignment()
        }
        if not positions:
            return
        reach("commit")
        try:
            self._consumer.commit(positions)
        except CommitFailedError as error:
            LOG.warning("commit refused, the records will be read again: %s", error)

    def pause(self) -> None:
        """Poll nothing until resumed, and stay in the group."""
        self._paused = True
        self._consumer.pause(*self._consumer.assignment())

    def resume(self) -> None:
        """End a pause."""
        self._paused = False
        self._consumer.resume(*self._consumer.assignment())

    def close(self) -> None:
        """Leave the group and release the connection."""
        self._consumer.close()

    def _assign_all(self, offsets: dict[tuple[str, int], int]) -> None:
        partitions: list[TopicPartition] = []
        for name in self._topics:
            deadline = time.monotonic() + 30.0
            while not (numbers := self._consumer.partitions_for_topic(name)):
                self._check(deadline, 30.0, what=f"topic {name} does not exist")
                time.sleep(0.1)
            partitions.extend(TopicPartition(name, number) for number in sorted(numbers))
        self._consumer.assign(partitions)
        for partition in partitions:
            offset = offsets.get((self._topics[partition.topic].name, partition.partition), 0)
            if offset > 0:
                self._consumer.seek(partition, offset)
            else:
                self._consumer.seek_to_beginning(partition)

    def _to_record(self, topic: Topic[Any], message: Any) -> Record[Any] | None:  # noqa: ANN401
        headers = dict(message.headers)
        is_barrier = BARRIER_HEADER in headers
        is_first = self._log_start.is_first(topic.name, message.partition, message.offset, is_barrier=is_barrier)
        if is_barrier:
            self._barriers.add((message.topic, message.partition, headers[BARRIER_HEADER].decode()))
            return None
        raw = Record(
            topic=topic.name,
            partition=message.partition,
            offset=message.offset,
            key=(message.key or b"").decode(errors="replace"),
            event=message.value or b"",
            headers=headers,
        )
        return decode_record(self._bus, topic, raw, is_first=is_first)

    def _check(self, deadline: float, timeout_seconds: float, what: str | None = None) -> None:
        if time.monotonic() > deadline:
            reason = what or f"the end of {', '.join(self._topics)} was not reached"
            raise BusError(f"{reason} in {timeout_seconds:.0f} s")


def _topic_request(topic: Topic[Any], settings: BusSection) -> dict[str, Any]:
    configs = {"max.message.bytes": str(MAX_RECORD_BYTES)}
    if topic.kept_for_ever:
        configs["retention.ms"] = "-1"
    if topic.compacted:
        configs["cleanup.policy"] = "compact"
        configs["segment.ms"] = str(COMPACTED_SEGMENT_MS)
        configs["segment.bytes"] = str(2 * MAX_RECORD_BYTES)
    return {
        "num_partitions": 1 if topic.single_partition else settings.num_partitions,
        "replication_factor": settings.replication_factor,
        "configs": configs,
    }


def _connect(kind: Any, settings: BusSection, **options: Any) -> Any:  # noqa: ANN401 - untyped library
    """Make a client, or say in one line that the broker cannot be reached."""
    try:
        return kind(
            bootstrap_servers=settings.bootstrap_servers.split(","),
            reconnect_backoff_max_ms=1000,
            bootstrap_timeout_ms=int(settings.connect_timeout_seconds * 1000),
            **options,
        )
    except KafkaTimeoutError:
        raise UserError(
            f"no broker answers at {settings.bootstrap_servers}",
            where="[bus] bootstrap_servers",
            remedy="start it, or correct the address",
        ) from None

"""The bus on Kafka, through kafka-python.

Producing is idempotent with acks from all in-sync replicas, and nothing is given up while a broker is away; the bytes
in flight are bounded here because kafka-python does not bound them.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from functools import lru_cache, partial
from typing import Any, TypeVar

from kafka import KafkaProducer
from kafka.errors import KafkaError, KafkaTimeoutError
from kafka.partitioner.default import murmur2

from tristream.config.bus import BusSection
from tristream.runtime.bus.kafka_clients import TopicAdmin, connect
from tristream.runtime.bus.kafka_reader import KafkaReader
from tristream.runtime.bus.lags import ReaderLags
from tristream.runtime.bus.patience import Patience
from tristream.runtime.bus.protocol import BusError, EventTooLargeError, Record, Tap
from tristream.runtime.bus.records import check_size, make_dead_letter
from tristream.runtime.errors import StoppedError
from tristream.runtime.hooks import reach
from tristream.wire.codecs.base import to_utf8
from tristream.wire.topics import (
    ALL_TOPICS,
    BARRIER_HEADER,
    DEAD_LETTERS,
    EPOCH_HEADER,
    FENCE_HEADER,
    MAX_RECORD_BYTES,
    OUTCOMES,
    PROMPTS,
    REWARDS,
    ROLLOUTS,
    Topic,
    record_headers,
)

EventT = TypeVar("EventT")

LOG = logging.getLogger("tristream.bus")

LINGER_SECONDS = 0.002
NEVER_MS = 10 * 365 * 24 * 3_600_000
"""Ten years: a record is given up only if the broker refuses it."""
CLOSE_SECONDS = 10.0
"""How long a bus that is closed waits for what it published last, unless its part is told to stop."""
FENCE_VALUE = b"fence"
"""A record without a value would be removed from a compacted topic after a day."""


class KafkaBus:
    """One run's topics on Kafka brokers, for one part."""

    def __init__(
        self,
        run: str,
        settings: BusSection,
        part: str,
        *,
        stop: threading.Event | None = None,
        say: Callable[[str], None] | None = None,
    ) -> None:
        """Connect; a broker that is away is waited for.

        Args:
            run: id of the run.
            settings: where the brokers are.
            part: who publishes.
            stop: ends every wait for a broker with ``StoppedError``, a few seconds after it is set.
            say: is told what is waited for while a call waits for a broker.

        Raises:
            UserError: no broker is given.
            StoppedError: told to stop while no broker answered.
        """
        self.run = run
        self.settings = settings
        self._part = part
        self.patience = Patience(settings.bootstrap_servers, stop, say)
        self.client_id = f"{run}-{part}"
        self._admin = TopicAdmin(settings, self.patience, f"{self.client_id}-admin")
        self._producer = connect(
            KafkaProducer,
            settings,
            self.patience,
            client_id=self.client_id,
            acks="all",
            enable_idempotence=True,
            linger_ms=int(1000 * (LINGER_SECONDS if settings.linger_seconds is None else settings.linger_seconds)),
            batch_size=256 * 1024,
            max_request_size=MAX_RECORD_BYTES,
            max_block_ms=1000,
            delivery_timeout_ms=NEVER_MS,
            request_timeout_ms=30_000,
            compression_type=None,
            metrics_enabled=False,
        )
        self._room = threading.Condition()
        self._in_flight_bytes = 0
        self._on_the_way: deque[tuple[float, Any]] = deque()
        """When each record was sent that may not be acknowledged yet, oldest first, and its future."""
        self._cannot_send_since: float | None = None
        self._failure: BaseException | None = None
        self._epochs: dict[str, bytes] = {}
        self._partitions: dict[str, list[int]] = {}
        self.reader_lags = ReaderLags()

    @property
    def address(self) -> str:
        """The brokers that it was given."""
        return self.settings.bootstrap_servers

    @property
    def silent_seconds(self) -> float:
        """For how long the broker has not acknowledged the oldest record that is on its way; 0 if none is."""
        now = time.monotonic()
        with self._room:
            self._forget_delivered()
            since = self._cannot_send_since or now
            if self._on_the_way:
                since = min(since, self._on_the_way[0][0])
        return now - since

    @property
    def lags(self) -> Mapping[str, int]:
        """Records that its open readers have not read yet, by topic, as far as the broker said with what it gave."""
        return self.reader_lags.total()

    def full_name(self, topic: Topic[Any]) -> str:
        """The topic's name on the broker."""
        return topic.full_name(self.settings.prefix, self.run)

    def create_topics(self) -> None:
        """Create the run's topics that do not exist yet.

        Raises:
            UserError: some are missing, and the run file says that none are made.
        """
        self._admin.make_topics({self.full_name(topic): topic for topic in ALL_TOPICS})

    def log_id(self) -> str:
        """Identity of the log: another one once a topic was made anew, or on another broker; empty if unknown."""
        return self._admin.log_id([self.full_name(topic) for topic in (PROMPTS, ROLLOUTS, REWARDS, OUTCOMES)])

    def partitions_of(self, topic: Topic[Any]) -> list[int]:
        """The numbers of a topic's partitions; waits until the topic exists.

        Raises:
            StoppedError: told to stop while it did not.
        """
        name = self.full_name(topic)

        def look(_seconds: float) -> bool:
            try:
                self._partitions[name] = sorted(self._producer.partitions_for(name))
            except KafkaTimeoutError:
                LOG.debug("topic %s does not exist, or the broker does not answer", name)
            return bool(self._partitions.get(name))

        if name not in self._partitions:
            self.patience.wait(look)
        return self._partitions[name]

    def take_over(self, topics: Sequence[Topic[Any]], epoch: int) -> None:
        """Write these topics under an epoch from now on; what earlier ones write after this is void.

        Raises:
            BusError: the broker refuses a fence.
            StoppedError: told to stop before all were acknowledged.
        """
        value = str(epoch).encode()
        sent = []
        for topic in topics:
            reach(f"fence.{topic.name}")
            header = (FENCE_HEADER, value)
            sent += [self._send_mark(topic, n, b"fence", FENCE_VALUE, header) for n in self.partitions_of(topic)]
            self._epochs[topic.name] = value
        self._await(sent)

    def publish(self, topic: Topic[EventT], event: EventT) -> "Future[None]":
        """Send an event; waits only while too many bytes are in flight.

        Raises:
            EventTooLargeError: it does not fit into a record; nothing else is affected.
            BusError: the broker refused an earlier record.
            StoppedError: told to stop while too many bytes were in flight.
        """
        reach(f"publish.{topic.name}")
        key, value, headers = self._encode(topic, event)
        return self.send(topic, key, value, headers)

    def send(
        self, topic: Topic[Any], key: bytes | None, value: bytes | None, headers: list[tuple[str, bytes]]
    ) -> "Future[None]":
        """Send bytes as they are, as ``publish`` does with an event."""
        size_bytes = len(value or b"") + len(key or b"")
        if self._failure is not None or not self._fits(size_bytes):
            self.patience.wait(lambda seconds: self._has_room(size_bytes, seconds))
        partition = self._partition_for(topic, key)
        delivered: Future[None] = Future()
        with self._room:
            self._in_flight_bytes += size_bytes
        try:
            future = self._producer.send(
                self.full_name(topic), value=value, key=key, headers=headers, partition=partition
            )
        except KafkaError as error:
            self._settle(size_bytes, delivered, error)
            raise BusError(f"cannot publish to {topic.name}: {error}") from error
        self._follow(future)
        future.add_both(lambda result: self._settle(size_bytes, delivered, result))
        return delivered

    def tell(self, topic: Topic[EventT], event: EventT) -> None:
        """Send an event that may be lost; what becomes of it is no failure of the bus."""
        if self._in_flight_bytes > self.settings.max_in_flight_bytes:
            return
        try:
            key, value, headers = self._encode(topic, event)
            future = self._producer.send(self.full_name(topic), value=value, key=key, headers=headers)
        except (KafkaError, EventTooLargeError) as error:
            LOG.debug("a record of %s is lost: %s", topic.name, error)
            if isinstance(error, KafkaTimeoutError):
                self._cannot_send_since = self._cannot_send_since or time.monotonic()
            return
        self._cannot_send_since = None
        self._follow(future)
        future.add_errback(lambda error: LOG.debug("a record of %s is lost: %s", topic.name, error))

    def flush(self, timeout_seconds: float | None = None) -> None:
        """Wait until everything published is acknowledged, however long the broker is away.

        Args:
            timeout_seconds: gives up after this time.

        Raises:
            BusError: a record was refused, or not acknowledged in that time.
            StoppedError: told to stop while waiting.
        """
        reach("flush")
        self._flush(timeout_seconds)

    def reader(
        self,
        topics: Sequence[Topic[Any]],
        *,
        group: str | None = None,
        offsets: Mapping[tuple[str, int], int] | None = None,
        tap: Tap | None = None,
        is_patient: bool = False,
    ) -> KafkaReader:
        """Read topics from the beginning, from a group's commits, or from offsets.

        Raises:
            UserError: the log begins after one of the offsets.
            StoppedError: told to stop while the broker did not answer.
        """
        return KafkaReader(self, topics, group, dict(offsets or {}), tap, is_patient=is_patient)

    def dead_letter(self, record: Record[bytes], error: str) -> None:
        """Publish a record that could not be handled, with the reason."""
        LOG.warning(
            "dead letter from %s partition %d offset %d: %s", record.topic, record.partition, record.offset, error
        )
        self.publish(DEAD_LETTERS, make_dead_letter(self.run, self._part, record, error))

    def publish_barriers(self, topic: Topic[Any], partitions: Sequence[int], token: str) -> list[int]:
        """Mark where the given partitions end now; returns where that is, the offset of each mark.

        Raises:
            BusError: the broker refuses a mark.
            StoppedError: told to stop before all were acknowledged.
        """
        reach(f"barrier.{topic.name}")
        header = (BARRIER_HEADER, token.encode())
        return self._await([self._send_mark(topic, number, b"barrier", None, header) for number in partitions])

    def close(self) -> None:
        """Flush and release the connections; what a broker that is away did not acknowledge is logged."""
        try:
            self._flush(CLOSE_SECONDS)
        except (BusError, StoppedError) as error:
            LOG.warning("not all that was published last is acknowledged: %s", error)
            self._producer._sender.force_close()
        try:
            self._producer.close(timeout=2)
        except KafkaTimeoutError as error:
            LOG.debug("the producer is left to its thread: %s", error)

    def _flush(self, timeout_seconds: float | None) -> None:
        started = time.monotonic()

        def flush_briefly(seconds: float) -> bool:
            try:
                self._producer.flush(timeout=seconds)
            except KafkaTimeoutError as error:
                if timeout_seconds is not None and time.monotonic() - started > timeout_seconds:
                    raise BusError(f"records are not acknowledged after {timeout_seconds:.0f} s") from error
                return False
            return True

        self.patience.wait(flush_briefly)
        self._raise_failure()

    def _encode(self, topic: Topic[EventT], event: EventT) -> tuple[bytes, bytes, list[tuple[str, bytes]]]:
        headers = {name: to_utf8(value) for name, value in record_headers(topic, event).items()}
        epoch = self._epochs.get(topic.name)
        if epoch is not None:
            headers[EPOCH_HEADER] = epoch
        key, value = to_utf8(topic.key(event)), topic.codec.encode(event)
        check_size(topic, key, value, headers)
        return key, value, list(headers.items())

    def _partition_for(self, topic: Topic[Any], key: bytes | None) -> int:
        partitions = self.partitions_of(topic)
        return partitions[_hash_key(key or b"") % len(partitions)]

    def _send_mark(
        self, topic: Topic[Any], partition: int, key: bytes, value: bytes | None, header: tuple[str, bytes]
    ) -> Any:  # noqa: ANN401 - untyped library
        self.partitions_of(topic)
        try:
            future = self._producer.send(
                self.full_name(topic), value=value, key=key, headers=[header], partition=partition
            )
        except KafkaError as error:
            raise BusError(f"cannot publish to {topic.name}: {error}") from error
        self._follow(future)
        return future

    def _await(self, futures: Sequence[Any]) -> list[int]:
        """Wait until records are acknowledged; returns their offsets."""
        for future in futures:
            self.patience.wait(partial(_is_acknowledged, future))
        return [future.value.offset for future in futures]

    def _has_room(self, size_bytes: int, seconds: float) -> bool:
        with self._room:
            self._raise_failure()
            return self._room.wait_for(lambda: self._fits(size_bytes), seconds)

    def _fits(self, size_bytes: int) -> bool:
        num_bytes = self._in_flight_bytes
        return num_bytes == 0 or num_bytes + size_bytes <= self.settings.max_in_flight_bytes

    def _settle(self, size_bytes: int, delivered: "Future[None]", result: Any) -> None:  # noqa: ANN401
        error = result if isinstance(result, BaseException) else None
        with self._room:
            self._in_flight_bytes -= size_bytes
            self._failure = self._failure or error
            self._room.notify_all()
        if error is None:
            delivered.set_result(None)
        else:
            delivered.set_exception(error)

    def _follow(self, future: Any) -> None:  # noqa: ANN401
        with self._room:
            self._forget_delivered()
            self._on_the_way.append((time.monotonic(), future))

    def _forget_delivered(self) -> None:
        while self._on_the_way and self._on_the_way[0][1].is_done:
            self._on_the_way.popleft()

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise BusError(f"a record was not delivered: {self._failure}") from self._failure


@lru_cache(maxsize=4096)
def _hash_key(key: bytes) -> int:
    """As every client of Kafka hashes a key; the rollouts of a group follow one another."""
    return int(murmur2(key)) & 0x7FFFFFFF


def _is_acknowledged(future: Any, seconds: float) -> bool:  # noqa: ANN401
    try:
        future.get(timeout=seconds)
    except KafkaTimeoutError:
        return False
    except KafkaError as error:
        raise BusError(f"a record was not delivered: {error}") from error
    return True

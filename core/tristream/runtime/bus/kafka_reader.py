"""Reading from Kafka.

Consumers commit by hand, after the caller handled what it polled. The end of a topic is found by a barrier record of
our own, because not every broker of the protocol reports end offsets right.
"""

import logging
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from kafka import KafkaConsumer
from kafka.errors import (
    CommitFailedError,
    FencedInstanceIdError,
    IllegalGenerationError,
    KafkaError,
    RebalanceInProgressError,
    UnknownMemberIdError,
)
from kafka.structs import OffsetAndMetadata, TopicPartition

from tristream.runtime.bus.epochs import LOOK_BACK_RECORDS, Epochs
from tristream.runtime.bus.kafka_batches import use_own_batches
from tristream.runtime.bus.kafka_clients import close_in_background, connect, insist, raise_unless_passing
from tristream.runtime.bus.protocol import BusError, Mark, Record, Tap
from tristream.runtime.bus.records import LogStart, decode_record, is_mark
from tristream.runtime.errors import UserError
from tristream.runtime.hooks import reach
from tristream.wire.topics import BARRIER_HEADER, MAX_RECORD_BYTES, Topic

if TYPE_CHECKING:
    from tristream.runtime.bus.kafka import KafkaBus

LOG = logging.getLogger("tristream.bus")

JOIN_POLL_SECONDS = 0.5
"""Shortest poll of a member that has no partitions yet: with much shorter ones it never joins its group."""
PATIENT_SECONDS = 0.5
"""How long a broker may hold an empty fetch of a patient reader."""
LAG_SECONDS = 1.0
"""How often it is looked how much is left to read."""
CLOSE_SECONDS = 1.0
"""How long a reader that is closed tries to leave its group; without that it is missed after the session timeout."""
REBALANCED = (
    CommitFailedError,
    FencedInstanceIdError,
    IllegalGenerationError,
    RebalanceInProgressError,
    UnknownMemberIdError,
)
"""What a commit meets whose partitions have moved to another member of the group, or will."""


class KafkaReader:
    """Reads topics with one consumer; used by one thread."""

    def __init__(
        self,
        bus: "KafkaBus",
        topics: Sequence[Topic[Any]],
        group: str | None,
        offsets: dict[tuple[str, int], int],
        tap: Tap | None,
        *,
        is_patient: bool,
    ) -> None:
        self._bus = bus
        self._tap = tap
        self._topics = {bus.full_name(topic): topic for topic in topics}
        self._epochs = Epochs(self._look_back)
        self._log_start = LogStart()
        self._paused = False
        self._open_marks: dict[str, set[tuple[str, int]]] = {}
        """Partitions in which the barrier of a mark of this reader is still to come, by token."""
        self._assigned: frozenset[TopicPartition] = frozenset()
        self._is_member = group is not None
        self._next_lags_seconds = 0.0
        settings = bus.settings
        self._fetch_wait_seconds = max(settings.fetch_wait_seconds, PATIENT_SECONDS * is_patient)
        self._consumer = self._connect(
            group_id=None if group is None else f"{settings.prefix}.{bus.run}.{group}",
            session_timeout_ms=int(settings.session_timeout_seconds * 1000),
            heartbeat_interval_ms=int(settings.session_timeout_seconds * 1000 / 6),
            max_poll_interval_ms=1_800_000,
        )
        if self._is_member:
            self._consumer.subscribe(list(self._topics))
        else:
            self._assign_all(offsets)

    def poll(self, timeout_seconds: float = 0.1, max_records: int = 500) -> Sequence[Record[Any]]:
        """The next records, or none after the timeout.

        Raises:
            BusError: the broker refuses it.
        """
        if self._paused:  # partitions that moved here since the pause
            self._consumer.pause(*self._consumer.assignment())
        if self._is_member and not self._consumer.assignment():  # a member joins its group only while it polls
            timeout_seconds = max(timeout_seconds, JOIN_POLL_SECONDS)
        batches = self._poll_briefly(self._consumer, timeout_seconds, max_records)
        if self._is_member:
            self._note_assignment()
        self._note_lags()
        records: list[Record[Any]] = []
        for partition, messages in batches.items():
            topic = self._topics[partition.topic]
            records.extend(record for raw in messages if (record := self._to_record(topic, raw)) is not None)
        return records

    def read_to_end(self, timeout_seconds: float = 60.0) -> Iterator[Record[Any]]:
        """The records up to those published before the first was asked for, as they come.

        Raises:
            BusError: the broker answers, nothing came for so long, and the end was not reached.
            StoppedError: told to stop while the broker did not answer.
        """
        while not self._consumer.assignment():  # a group member joins while it polls
            yield from self._poll_until_assigned()
        mark = self.mark_end()
        for _attempt in range(2):  # the first may have met an outage, which marking outlasts
            deadline = time.monotonic() + timeout_seconds
            while not self.has_passed(mark) and time.monotonic() < deadline:
                polled = self.poll(0.1, max_records=10_000)
                yield from polled
                if polled:  # a long log is not a broker that is stuck
                    deadline = time.monotonic() + timeout_seconds
            if self.has_passed(mark):
                return
            del self._open_marks[mark.token]
            mark = self.mark_end()
        raise BusError(f"the end of {', '.join(self._topics)} was not reached in {timeout_seconds:.0f} s")

    def mark_end(self) -> Mark:
        """Mark where the log ends now, in the partitions that this reader has.

        Raises:
            BusError: the broker refuses the marks.
            StoppedError: told to stop before they were acknowledged.
        """
        token = uuid.uuid4().hex
        assigned = self._consumer.assignment()
        self._open_marks[token] = {(self._topics[place.topic].name, place.partition) for place in assigned}
        for name, topic in self._topics.items():
            self._bus.publish_barriers(topic, [place.partition for place in assigned if place.topic == name], token)
        return Mark(token)

    def has_passed(self, mark: Mark) -> bool:
        """Whether everything before the mark was polled."""
        return mark.token not in self._open_marks

    def positions(self) -> Mapping[tuple[str, int], int]:
        """Offset of the next record of each partition, by topic and partition.

        Raises:
            StoppedError: told to stop while the broker did not answer.
        """
        positions: dict[tuple[str, int], int] = {}
        for partition in self._consumer.assignment():
            found: list[int] = []
            self._bus.patience.wait(partial(self._find_position, partition, found))
            positions[self._topics[partition.topic].name, partition.partition] = found[0]
        return positions

    def commit(self, positions: Mapping[tuple[str, int], int] | None = None) -> None:
        """Remember, for the group, that all polled records are handled, or those before some positions.

        It waits while the broker is away. Positions of partitions that have moved to another member are left out.

        Raises:
            BusError: the broker refuses it.
            StoppedError: told to stop while it did not answer.
        """
        handled = {
            partition: OffsetAndMetadata(offset, "", -1)
            for partition in self._consumer.assignment()
            if (offset := self._handled_offset(partition, positions)) is not None
        }
        if not handled:
            return
        reach("commit")
        self._bus.patience.wait(lambda seconds: self._try_to_commit(handled, seconds))

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
        self._bus.reader_lags.forget(self)
        self._consumer.close(autocommit=False, timeout_ms=int(CLOSE_SECONDS * 1000))

    def _connect(self, **options: Any) -> Any:  # noqa: ANN401 - untyped library
        settings = self._bus.settings
        consumer = connect(
            KafkaConsumer,
            settings,
            self._bus.patience,
            client_id=self._bus.client_id,
            enable_auto_commit=False,
            metrics_enabled=False,
            auto_offset_reset="earliest",
            fetch_max_wait_ms=int(self._fetch_wait_seconds * 1000),
            max_partition_fetch_bytes=MAX_RECORD_BYTES,
            **options,
        )
        use_own_batches(consumer, {name: topic.name for name, topic in self._topics.items()})
        return consumer

    def _assign_all(self, offsets: dict[tuple[str, int], int]) -> None:
        """Begin at the offsets, or at the log's start where none is given or the log ends before it."""
        starts = {
            TopicPartition(name, number): offsets.get((topic.name, number), 0)
            for name, topic in self._topics.items()
            for number in self._bus.partitions_of(topic)
        }
        self._consumer.assign(list(starts))
        self._consumer.seek_to_beginning(*starts)
        wanted = {partition: offset for partition, offset in starts.items() if offset > 0}
        if not wanted:
            return
        first = insist(self._bus.patience, lambda: self._consumer.beginning_offsets(list(wanted)))
        for partition, offset in wanted.items():
            if first[partition] > offset:
                raise _describe_gap(partition, offset, first[partition])
            (end,) = self._bus.publish_barriers(self._topics[partition.topic], [partition.partition], "end")
            if offset <= end:
                self._consumer.seek(partition, offset)
            else:
                LOG.warning("%s ends before offset %d, it is read from its start", partition, offset)

    def _poll_until_assigned(self) -> Sequence[Record[Any]]:
        records: list[Record[Any]] = []

        def poll(_seconds: float) -> bool:
            records.extend(self.poll(0.1))
            return bool(self._consumer.assignment())

        self._bus.patience.wait(poll)
        return records

    def _poll_briefly(
        self,
        consumer: Any,  # noqa: ANN401 - untyped library
        seconds: float,
        max_records: int = 500,
    ) -> dict[TopicPartition, list[Record[bytes]]]:
        """What a consumer has next; nothing while the broker is away."""
        try:
            polled: dict[TopicPartition, list[Record[bytes]]] = consumer.poll(
                timeout_ms=int(seconds * 1000), max_records=max_records
            )
        except KafkaError as error:
            if not isinstance(error, REBALANCED):
                raise_unless_passing(error)
            time.sleep(seconds)
            return {}
        return polled

    def _note_assignment(self) -> None:
        assigned = frozenset(self._consumer.assignment())
        if assigned != self._assigned:
            self._epochs.forget((self._topics[gone.topic].name, gone.partition) for gone in self._assigned - assigned)
            self._assigned = assigned

    def _note_lags(self) -> None:
        """Tell the bus now and then how far the log goes on, by what the newest fetches said; nothing is asked for."""
        now = time.monotonic()
        if now < self._next_lags_seconds:
            return
        self._next_lags_seconds = now + LAG_SECONDS
        lags = dict.fromkeys((topic.name for topic in self._topics.values()), 0)
        for partition, state in list(self._consumer._subscription.assignment.items()):
            if state.highwater is not None and state.position is not None:
                lags[self._topics[partition.topic].name] += max(0, state.highwater - int(state.position.offset))
        self._bus.reader_lags.note(self, lags)

    def _handled_offset(self, partition: TopicPartition, positions: Mapping[tuple[str, int], int] | None) -> int | None:
        if positions is not None:
            return positions.get((self._topics[partition.topic].name, partition.partition))
        polled = self._consumer._subscription.assignment[partition].position
        return None if polled is None else int(polled.offset)

    def _find_position(self, partition: TopicPartition, found: list[int], seconds: float) -> bool:
        try:
            position = self._consumer.position(partition, timeout_ms=int(seconds * 1000))
        except KafkaError as error:
            raise_unless_passing(error)
            return False
        if position is not None:
            found.append(position)
        return position is not None

    def _try_to_commit(self, positions: dict[TopicPartition, OffsetAndMetadata], seconds: float) -> bool:
        try:
            self._consumer.commit(positions, timeout_ms=int(seconds * 1000))
        except REBALANCED as error:
            LOG.warning("a commit came too late, other members of the group read on: %r", error)
        except KafkaError as error:
            raise_unless_passing(error)
            return False
        return True

    def _to_record(self, topic: Topic[Any], raw: Record[bytes]) -> Record[Any] | None:
        if self._tap is not None:
            self._tap(raw)
        marks = is_mark(raw)
        is_first = self._log_start.is_first(topic.name, raw.partition, raw.offset, is_barrier=marks)
        void = self._epochs.find_void(topic, raw)
        if BARRIER_HEADER in raw.headers:
            self._pass_barrier(raw)
        if void is not None:
            self._bus.dead_letter(raw, void)
        if marks or void is not None:
            return None
        return decode_record(self._bus, topic, raw, is_first=is_first)

    def _pass_barrier(self, barrier: Record[bytes]) -> None:
        token = barrier.headers[BARRIER_HEADER].decode(errors="replace")
        to_come = self._open_marks.get(token)
        if to_come is None:
            return
        to_come.discard((barrier.topic, barrier.partition))
        if not to_come:
            del self._open_marks[token]

    def _look_back(self, topic_name: str, number: int, offset: int) -> list[Record[bytes]]:
        """The records of a partition just before an offset, by a consumer of their own."""
        topic = next(topic for topic in self._topics.values() if topic.name == topic_name)
        partition = TopicPartition(self._bus.full_name(topic), number)
        consumer = self._connect(group_id=None)
        found: list[Record[bytes]] = []

        def poll(seconds: float) -> bool:
            for records in self._poll_briefly(consumer, seconds).values():
                found.extend(record for record in records if record.offset < offset)
            position = consumer._subscription.assignment[partition].position
            return position is not None and position.offset >= offset

        try:
            consumer.assign([partition])
            first = insist(self._bus.patience, lambda: consumer.beginning_offsets([partition]))[partition]
            consumer.seek(partition, min(max(first, offset - LOOK_BACK_RECORDS), offset))
            self._bus.patience.wait(poll)
        finally:
            close_in_background(consumer)
        return found


def _describe_gap(partition: TopicPartition, wanted: int, first: int) -> UserError:
    return UserError(
        f"its log begins at offset {first}, and offset {wanted} is needed to go on: the records between are gone",
        where=f"topic {partition.topic}, partition {partition.partition}",
        remedy="give another run.id, and its topics a longer retention ([bus] retention_hours)",
    )

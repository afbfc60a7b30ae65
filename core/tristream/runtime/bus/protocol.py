"""The bus: how parts publish and read events. Implementations: ``memory``, ``kafka``.

Delivery is at-least-once. ``publish`` returns at once; ``flush`` waits until everything published is
acknowledged and raises if anything was lost. Records that cannot be decoded go to the dead letter
topic with the reason and never reach the caller.

A broker may be away for any time: every call waits for it, and goes on when it is back. Only being told to stop ends
such a wait, with ``StoppedError``.

Of some parts a run has one. Such a part takes its topics over under an epoch greater than that of any before: a
fence in each partition says from where on records of an earlier epoch are void, for every reader alike. So a process
that was frozen and wakes up can publish, and changes nothing.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from tristream.wire.topics import Topic

EventT = TypeVar("EventT")


class BusError(Exception):
    """Publishing or reading failed for good; the part should stop and be started again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Record(Generic[EventT]):
    """One decoded record of a topic."""

    topic: str
    """Topic name without prefix and run."""
    partition: int
    offset: int
    key: str
    event: EventT
    headers: Mapping[str, bytes]
    timestamp_ns: int = 0
    """When the broker took it, or, if the broker does not say, when it was sent; nanoseconds since the epoch."""


Tap = Callable[[Record[bytes]], None]
"""Is shown every record as it is on the log, before it is decoded; barriers and fences too."""


class EventTooLargeError(ValueError):
    """An event does not fit into a record; it was not sent, and the bus is as it was."""


@dataclass(frozen=True, slots=True)
class Mark:
    """Where the log ended at one time, for one reader."""

    token: str


class Reader(Protocol):
    """Reads one or more topics in partition order; used by one thread."""

    def poll(self, timeout_seconds: float = 0.1, max_records: int = 500) -> Sequence[Record[Any]]:
        """The next records, or none after the timeout."""
        ...

    def read_to_end(self, timeout_seconds: float = 60.0) -> Iterator[Record[Any]]:
        """The records up to those published before the first was asked for, as they come.

        Raises:
            BusError: the broker answers, nothing came for so long, and the end was not reached.
            StoppedError: told to stop while the broker did not answer.
        """
        ...

    def mark_end(self) -> Mark:
        """Mark where the log ends now, in the partitions that this reader has.

        Raises:
            BusError: the marks were not acknowledged.
        """
        ...

    def has_passed(self, mark: Mark) -> bool:
        """Whether everything before the mark was polled."""
        ...

    def positions(self) -> Mapping[tuple[str, int], int]:
        """Offset of the next record of each partition, by topic and partition."""
        ...

    def commit(self, positions: Mapping[tuple[str, int], int] | None = None) -> None:
        """Remember, for the reader's group, that all polled records are handled, or those before some positions.

        Args:
            positions: offset of the first record that is not handled, by topic and partition; partitions without one
                stay as they are, and so do those that this reader does not have (any more).
        """
        ...

    def pause(self) -> None:
        """Poll nothing until resumed, and stay in the group."""
        ...

    def resume(self) -> None:
        """End a pause."""
        ...

    def close(self) -> None:
        """Leave the group and release the connection."""
        ...


class Bus(Protocol):
    """One run's topics on one broker."""

    run: str

    def create_topics(self) -> None:
        """Create the run's topics that do not exist yet."""
        ...

    def log_id(self) -> str:
        """Identity of the log: another one once a topic was made anew, or on another broker; empty if unknown."""
        ...

    def take_over(self, topics: Sequence[Topic[Any]], epoch: int) -> None:
        """Write these topics under an epoch from now on; what earlier ones write after this is void.

        Raises:
            BusError: the fences were not acknowledged.
        """
        ...

    def publish(self, topic: Topic[EventT], event: EventT) -> "Future[None]":
        """Send an event; waits only while too many bytes are in flight.

        Raises:
            EventTooLargeError: it does not fit into a record; nothing else is affected.
        """
        ...

    def tell(self, topic: Topic[EventT], event: EventT) -> None:
        """Send an event that may be lost, such as a status: what becomes of it is no failure of the bus."""
        ...

    @property
    def address(self) -> str:
        """Where its log is, for people."""
        ...

    @property
    def silent_seconds(self) -> float:
        """For how long the broker has not acknowledged the oldest record that is on its way; 0 if none is."""
        ...

    @property
    def lags(self) -> Mapping[str, int]:
        """Records that its open readers have not read yet, by topic, as far as the broker said with what it gave."""
        ...

    def flush(self, timeout_seconds: float | None = None) -> None:
        """Wait until everything published is acknowledged, however long the broker is away.

        Args:
            timeout_seconds: gives up after this time.

        Raises:
            BusError: a record was refused, or not acknowledged in that time.
            StoppedError: told to stop while waiting.
        """
        ...

    def reader(
        self,
        topics: Sequence[Topic[Any]],
        *,
        group: str | None = None,
        offsets: Mapping[tuple[str, int], int] | None = None,
        tap: Tap | None = None,
        is_patient: bool = False,
    ) -> Reader:
        """Read topics from the beginning, from a group's commits, or from ``(topic, partition)`` offsets.

        A partition whose log ends before its offset is read from its start. A patient reader may be told of what comes
        up to half a second later, and costs a quiet broker the less.

        Raises:
            UserError: the log begins after one of the offsets: what is needed is gone.
        """
        ...

    def dead_letter(self, record: Record[bytes], error: str) -> None:
        """Publish a record that could not be handled, with the reason."""
        ...

    def close(self) -> None:
        """Flush and release the connections."""
        ...

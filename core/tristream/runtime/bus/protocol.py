"""The bus: how parts publish and read events. Implementations: ``memory``, ``kafka``.

Delivery is at-least-once. ``publish`` returns at once; ``flush`` waits until everything published is
acknowledged and raises if anything was lost. Records that cannot be decoded go to the dead letter
topic with the reason and never reach the caller.
"""

from collections.abc import Mapping, Sequence
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


class Reader(Protocol):
    """Reads one or more topics in partition order; used by one thread."""

    def poll(self, timeout_seconds: float = 0.1, max_records: int = 500) -> Sequence[Record[Any]]:
        """The next records, or none after the timeout."""
        ...

    def read_to_end(self, timeout_seconds: float = 60.0) -> Sequence[Record[Any]]:
        """All records up to those published before this call.

        Raises:
            BusError: nothing came for so long, and the end was not reached.
        """
        ...

    def commit(self) -> None:
        """Remember, for the reader's group, that all polled records are handled."""
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

    def publish(self, topic: Topic[EventT], event: EventT) -> "Future[None]":
        """Send an event; waits only while too many bytes are in flight."""
        ...

    def tell(self, topic: Topic[EventT], event: EventT) -> None:
        """Send an event that may be lost, such as a status: what becomes of it is no failure of the bus."""
        ...

    def flush(self, timeout_seconds: float = 60.0) -> None:
        """Wait until everything published is acknowledged.

        Raises:
            BusError: a record was not acknowledged.
        """
        ...

    def reader(
        self,
        topics: Sequence[Topic[Any]],
        *,
        group: str | None = None,
        offsets: Mapping[tuple[str, int], int] | None = None,
    ) -> Reader:
        """Read topics from the beginning, from a group's commits, or from ``(topic, partition)`` offsets."""
        ...

    def dead_letter(self, record: Record[bytes], error: str) -> None:
        """Publish a record that could not be handled, with the reason."""
        ...

    def close(self) -> None:
        """Flush and release the connections."""
        ...

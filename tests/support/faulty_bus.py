"""A bus with faults on command, around any bus. Without a command it is the bus that it wraps.

All faults are ones that the contract of a bus allows: records may come late, again, and in any order across
partitions, and every call may fail. Within a partition the first copies of records keep their order.
"""

import random
import threading
import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from typing import Any, Literal, TypeVar

from tristream.runtime.bus.protocol import Bus, BusError, Mark, Reader, Record, Tap
from tristream.wire.topics import Topic

EventT = TypeVar("EventT")
Call = Literal["publish", "flush", "commit"]
Partition = tuple[str, int]

MOST_REPEATED = 20
"""Records of a partition that may be read again at once."""


class FaultyBus:
    """One run's topics with faults; share one instance among the parts that are to suffer them."""

    def __init__(self, bus: Bus, seed: int = 0) -> None:
        self.inner = bus
        self.run = bus.run
        self.reorders = False
        """Whether readers mix the partitions at random, and keep some records back for later polls."""
        self.repeat_probability = 0.0
        """How likely a poll reads the last records of a partition again."""
        self._seed = seed
        self._num_readers = 0
        self._refusals: Counter[Call] = Counter()
        self._delays = False
        self._held: deque[Callable[[], None]] = deque()
        self._held_since = 0.0
        self._condition = threading.Condition(threading.RLock())

    def delay_publishes(self) -> None:
        """Hold back everything published from now on until it is released."""
        self._delays = True

    def release_publishes(self) -> None:
        """Publish what is held back, in order, and delay no more."""
        with self._condition:
            while self._held:
                self._held.popleft()()
            self._delays = False
            self._condition.notify_all()

    def refuse(self, call: Call, times: int = 1) -> None:
        """Let the next calls of a kind, of the bus or of its readers, raise BusError without doing anything."""
        with self._condition:
            self._refusals[call] += times

    def check(self, call: Call) -> None:
        """Raise BusError if this call is to be refused."""
        with self._condition:
            if self._refusals[call] > 0:
                self._refusals[call] -= 1
                raise BusError(f"{call} refused on command")

    def create_topics(self) -> None:
        """As the wrapped bus."""
        self.inner.create_topics()

    def log_id(self) -> str:
        """As the wrapped bus."""
        return self.inner.log_id()

    def take_over(self, topics: Sequence[Topic[Any]], epoch: int) -> None:
        """As the wrapped bus."""
        self.inner.take_over(topics, epoch)

    def publish(self, topic: Topic[EventT], event: EventT) -> "Future[None]":
        """Send an event, or hold it back."""
        self.check("publish")
        with self._condition:
            if not self._delays:
                return self.inner.publish(topic, event)
            delivered: Future[None] = Future()
            self._held_since = self._held_since if self._held else time.monotonic()
            self._held.append(lambda: _follow(self.inner.publish(topic, event), delivered))
            return delivered

    def tell(self, topic: Topic[EventT], event: EventT) -> None:
        """As the wrapped bus; such an event is lost where others are refused or held back."""
        with self._condition:
            if not self._delays and self._refusals["publish"] == 0:
                self.inner.tell(topic, event)

    @property
    def address(self) -> str:
        """As the wrapped bus."""
        return self.inner.address

    @property
    def silent_seconds(self) -> float:
        """Since when records are held back, or as the wrapped bus."""
        with self._condition:
            return time.monotonic() - self._held_since if self._held else self.inner.silent_seconds

    @property
    def lags(self) -> Mapping[str, int]:
        """As the wrapped bus."""
        return self.inner.lags

    def flush(self, timeout_seconds: float | None = None) -> None:
        """As the wrapped bus, once nothing is held back.

        Raises:
            BusError: something is still held back after the timeout.
        """
        self.check("flush")
        deadline = None if timeout_seconds is None else time.monotonic() + timeout_seconds
        with self._condition:
            if not self._condition.wait_for(lambda: not self._held, timeout_seconds):
                raise BusError(f"{len(self._held)} records are held back for {timeout_seconds:.1f} s")
        self.inner.flush(None if deadline is None else max(deadline - time.monotonic(), 0.1))

    def reader(
        self,
        topics: Sequence[Topic[Any]],
        *,
        group: str | None = None,
        offsets: Mapping[tuple[str, int], int] | None = None,
        tap: Tap | None = None,
        is_patient: bool = False,
    ) -> "FaultyReader":
        """A reader that suffers the faults of this bus."""
        self._num_readers += 1
        rng = random.Random(f"{self._seed}/{self._num_readers}")
        return FaultyReader(
            self, self.inner.reader(topics, group=group, offsets=offsets, tap=tap, is_patient=is_patient), rng
        )

    def dead_letter(self, record: Record[bytes], error: str) -> None:
        """As the wrapped bus."""
        self.inner.dead_letter(record, error)

    def close(self) -> None:
        """Publish what is held back, and close the wrapped bus."""
        self.release_publishes()
        self.inner.close()


class FaultyReader:
    """Reads through another reader, late, again and mixed as its bus commands; used by one thread."""

    def __init__(self, bus: FaultyBus, inner: Reader, rng: random.Random) -> None:
        self._bus = bus
        self._inner = inner
        self._rng = rng
        self._waiting: defaultdict[Partition, deque[Record[Any]]] = defaultdict(deque)
        """Records read and not yet given, by partition."""
        self._given: defaultdict[Partition, deque[Record[Any]]] = defaultdict(lambda: deque(maxlen=MOST_REPEATED))
        """The last records given, by partition."""
        self._is_paused = False

    def poll(self, timeout_seconds: float = 0.1, max_records: int = 500) -> Sequence[Record[Any]]:
        """The next records; with faults perhaps others, or fewer, than the wrapped reader has next."""
        has_waiting = any(self._waiting.values()) and not self._is_paused
        self._take_in(self._inner.poll(0.0 if has_waiting else timeout_seconds, max_records))
        if self._is_paused:
            return []
        num_waiting = sum(map(len, self._waiting.values()))
        most = self._rng.randint(1, num_waiting) if self._bus.reorders and num_waiting else num_waiting
        return self._give(min(most, max_records))

    def read_to_end(self, timeout_seconds: float = 60.0) -> Iterator[Record[Any]]:
        """The records up to those published before the first was asked for, mixed and repeated as commanded."""
        self._take_in(list(self._inner.read_to_end(timeout_seconds)))
        yield from self._give(sum(map(len, self._waiting.values())))

    def mark_end(self) -> Mark:
        """As the wrapped reader."""
        return self._inner.mark_end()

    def has_passed(self, mark: Mark) -> bool:
        """Whether everything before the mark was given."""
        return self._inner.has_passed(mark) and not any(self._waiting.values())

    def positions(self) -> Mapping[tuple[str, int], int]:
        """As the wrapped reader, but for what is kept back."""
        positions = dict(self._inner.positions())
        for key, waiting in self._waiting.items():
            if waiting:
                positions[key] = min(positions[key], *(record.offset for record in waiting))
        return positions

    def commit(self, positions: Mapping[tuple[str, int], int] | None = None) -> None:
        """Remember what is handled; nothing while records are kept back, which would be lost by it."""
        self._bus.check("commit")
        if positions is not None or not any(self._waiting.values()):
            self._inner.commit(positions)

    def pause(self) -> None:
        """Give nothing until resumed."""
        self._is_paused = True
        self._inner.pause()

    def resume(self) -> None:
        """End a pause."""
        self._is_paused = False
        self._inner.resume()

    def close(self) -> None:
        """As the wrapped reader; what was kept back is read again by the next one of its group."""
        self._inner.close()

    def _take_in(self, records: Sequence[Record[Any]]) -> None:
        for partition, given in self._given.items():
            # Where records still wait, repeating more would keep new ones back for ever.
            is_idle = bool(given) and not self._waiting[partition]
            if is_idle and self._rng.random() < self._bus.repeat_probability:
                again = list(given)[-self._rng.randint(1, len(given)) :]
                self._waiting[partition].extendleft(reversed(again))
        for record in records:
            self._waiting[(record.topic, record.partition)].append(record)

    def _give(self, num_records: int) -> list[Record[Any]]:
        records: list[Record[Any]] = []
        while len(records) < num_records:
            ready = [partition for partition, waiting in self._waiting.items() if waiting]
            partition = self._rng.choice(ready) if self._bus.reorders else ready[0]
            records.append(self._waiting[partition].popleft())
            self._given[partition].append(records[-1])
        return records


def _follow(sent: "Future[None]", delivered: "Future[None]") -> None:
    """Settle a future as another one is settled."""

    def settle(done: "Future[None]") -> None:
        error = done.exception()
        if error is None:
            delivered.set_result(None)
        else:
            delivered.set_exception(error)

    sent.add_done_callback(settle)

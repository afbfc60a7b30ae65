"""What is in hand: credits say whether more may be taken, low-water marks what may be committed.

    records -> take() -> Ticket -> begin(lane) ... end(lane) -> Ticket.settle() -> marks()

A record is settled when every reward of it is acknowledged, in any order, so one that takes long holds back the
low-water mark of its partition and nothing else. Each lane has credits of its own, so that verifiers which wait for
others, such as judges, leave the pure ones theirs. Any thread may call; one event loop waits.
"""

import asyncio
import threading
import time
from collections.abc import Callable, Hashable, Mapping
from enum import StrEnum

from tristream.verifiers.service.low_water import LowWater


class Lane(StrEnum):
    """Which credits a verifier uses."""

    PURE = "pure"
    """It computes."""
    ASYNC = "async"
    """It waits for others."""


class Ticket:
    """A record in hand."""

    __slots__ = ("_records", "_window", "offset", "partition")

    def __init__(self, window: "Window", partition: Hashable, records: LowWater, offset: int) -> None:
        self._window = window
        self._records = records
        self.partition = partition
        self.offset = offset

    def settle(self) -> None:
        """Nothing is left to be done for the record; if its partition has come anew meanwhile, that changes nothing."""
        self._window._settle(self.partition, self._records, self.offset)

    def is_beside(self, other: "Ticket") -> bool:
        """Whether both were taken since their partition came last, so that the other one was not read again."""
        return self._records is other._records


class Window:
    """The records in hand, of all partitions.

    Args:
        sizes: most rollouts in the works, by lane.
    """

    def __init__(self, sizes: Mapping[Lane, int]) -> None:
        self._sizes = dict(sizes)
        self._lock = threading.Lock()
        self._in_works = dict.fromkeys(self._sizes, 0)
        self._partitions: dict[Hashable, LowWater] = {}
        self._waiting: list[tuple[Callable[[], bool], asyncio.AbstractEventLoop, asyncio.Event]] = []
        self.failure: BaseException | None = None
        """What ended the work; nothing is taken or committed after it."""

    def assign(self, starts: Mapping[Hashable, int]) -> None:
        """Begin anew with partitions, each at its offset; tickets taken before are void."""
        with self._lock:
            self._partitions = {partition: LowWater(start) for partition, start in starts.items()}

    def restart(self, partition: Hashable, start: int) -> None:
        """Begin one partition anew, at another offset; tickets taken before are void."""
        with self._lock:
            self._partitions[partition] = LowWater(start)

    def span(self, partition: Hashable) -> tuple[int, int] | None:
        """The offset at which a partition began and the one that comes next; None if it is not assigned."""
        with self._lock:
            records = self._partitions.get(partition)
            return None if records is None else (records.start, records.next)

    def take(self, partition: Hashable, offset: int) -> Ticket | None:
        """Take a record into hand; None if it was taken before, or its partition is not assigned."""
        with self._lock:
            records = self._partitions.get(partition)
            if records is None or not records.take(offset):
                return None
            return Ticket(self, partition, records, offset)

    def marks(self) -> dict[Hashable, int]:
        """The low-water mark of each partition, which may be committed."""
        with self._lock:
            return {partition: records.mark for partition, records in self._partitions.items()}

    def begin(self, lane: Lane, number: int = 1) -> None:
        """Note that rollouts are in the works."""
        with self._lock:
            self._in_works[lane] += number

    def end(self, lane: Lane, number: int = 1) -> None:
        """Note that rollouts are done with, whatever came of them."""
        with self._lock:
            self._in_works[lane] -= number
            self._wake()

    def fail(self, error: BaseException) -> None:
        """End the work: of several errors the first counts."""
        with self._lock:
            self.failure = self.failure or error
            self._wake()

    @property
    def room(self) -> int:
        """How many more rollouts may be taken."""
        return max(0, min(size - self._in_works[lane] for lane, size in self._sizes.items()))

    @property
    def num_in_works(self) -> int:
        """Rollouts in the works."""
        return sum(self._in_works.values())

    async def wait_for_room(self, wanted: int, seconds: float) -> bool:
        """Wait so long at most for room for so many rollouts; False if there is none, or the work has failed."""
        await self._wait(lambda: self.room >= wanted or self.failure is not None, seconds)
        return self.room > 0 and self.failure is None

    async def wait_until_idle(self, seconds: float) -> bool:
        """Wait so long at most until nothing is in the works; False if something still is, or the work has failed."""
        await self._wait(lambda: self.num_in_works == 0 or self.failure is not None, seconds)
        return self.num_in_works == 0 and self.failure is None

    async def _wait(self, is_reached: Callable[[], bool], seconds: float) -> None:
        deadline = time.monotonic() + seconds
        event = asyncio.Event()
        waiting = (is_reached, asyncio.get_running_loop(), event)
        with self._lock:
            if is_reached():
                return
            self._waiting.append(waiting)
        try:
            async with asyncio.timeout(deadline - time.monotonic()):
                await event.wait()
        except TimeoutError:
            return
        finally:
            with self._lock:
                self._waiting = [other for other in self._waiting if other is not waiting]

    def _settle(self, partition: Hashable, records: LowWater, offset: int) -> None:
        with self._lock:
            if self._partitions.get(partition) is records:
                records.settle(offset)

    def _wake(self) -> None:
        for is_reached, loop, event in self._waiting:
            if not loop.is_closed() and is_reached():
                loop.call_soon_threadsafe(event.set)

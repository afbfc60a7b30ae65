"""Rollouts to the bus, each acknowledged before its prompt counts as answered."""

import asyncio
import threading
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from queue import SimpleQueue

from tristream.runtime.bus.protocol import Bus, BusError
from tristream.runtime.errors import StoppedError
from tristream.wire.events import Rollout
from tristream.wire.topics import ROLLOUTS

Waiter = asyncio.Future[None]


class UnsendableError(Exception):
    """No record can hold this rollout; the bus is as it was."""


class Deliverer:
    """Publishes rollouts from a thread of its own, as publishing waits where too much is in flight."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._to_publish: SimpleQueue[tuple[Rollout, Waiter] | None] = SimpleQueue()
        self._settled: list[tuple[Waiter, BaseException | None]] = []
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self.num_in_flight = 0
        """Rollouts that are handed over and not acknowledged."""
        threading.Thread(target=self._publish_for_ever, name="publish", daemon=True).start()

    async def deliver(self, rollout: Rollout) -> None:
        """Publish a rollout, and wait until the broker has it, however long it is away.

        Raises:
            UnsendableError: it is too large, or has text that no record can hold.
            BusError: the broker refused it.
            StoppedError: told to stop while too many bytes were in flight.
        """
        self._loop = asyncio.get_running_loop()
        waiter: Waiter = self._loop.create_future()
        self.num_in_flight += 1
        try:
            self._to_publish.put((rollout, waiter))
            await waiter
        finally:
            self.num_in_flight -= 1

    def close(self) -> None:
        """End the thread."""
        self._to_publish.put(None)

    def _publish_for_ever(self) -> None:
        while (item := self._to_publish.get()) is not None:
            rollout, waiter = item
            try:
                acknowledged = self._bus.publish(ROLLOUTS, rollout)
            except (BusError, StoppedError) as error:
                self._settle(waiter, error)
            except Exception as error:  # too large, or text that no record can hold
                self._settle(waiter, UnsendableError(f"{error or type(error).__name__}"))
            else:
                acknowledged.add_done_callback(partial(self._settle_acknowledged, waiter))

    def _settle_acknowledged(self, waiter: Waiter, acknowledged: "Future[None]") -> None:
        error = acknowledged.exception()
        self._settle(waiter, None if error is None else BusError(f"a rollout was not delivered: {error}"))

    def _settle(self, waiter: Waiter, error: BaseException | None) -> None:
        """Tell the loop, from any thread; it is woken once for all that comes until it is awake."""
        with self._lock:
            is_woken_already = bool(self._settled)
            self._settled.append((waiter, error))
        if self._loop is not None and not is_woken_already:
            with suppress(RuntimeError):  # the loop has ended
                self._loop.call_soon_threadsafe(self._settle_all)

    def _settle_all(self) -> None:
        with self._lock:
            settled, self._settled = self._settled, []
        for waiter, error in settled:
            if waiter.done():
                continue
            if error is None:
                waiter.set_result(None)
            else:
                waiter.set_exception(error)

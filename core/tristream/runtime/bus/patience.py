"""Waiting for a broker for as long as it takes; only being told to stop ends it."""

import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from typing import TypeVar

from tristream.runtime.errors import StoppedError

ResultT = TypeVar("ResultT")

LOG = logging.getLogger("tristream.bus")

SLICE_SECONDS = 0.2
"""How often a wait looks whether its part was told to stop."""
SAY_AFTER_SECONDS = 2.0
"""Shorter waits are not worth a word."""
LOG_EVERY_SECONDS = 60.0
STOP_GRACE_SECONDS = 2.0
"""How long a broker may still take once its part was told to stop, over all waits together."""
LEAST_GRACE_SECONDS = 1.0
"""What a wait gets that begins when that time is over: a broker that lives answers within it."""


class Patience:
    """Waits for the broker at an address, says so, and gives up when its part is told to stop."""

    def __init__(self, address: str, stop: threading.Event | None, say: Callable[[str], None] | None) -> None:
        self._address = address
        self._stop = stop or threading.Event()
        self._say = say
        self._stopped_at: float | None = None

    def wait(self, is_done: Callable[[float], bool]) -> None:
        """Call ``is_done(seconds)``, which waits that long at most, until it is true.

        Raises:
            StoppedError: told to stop while waiting.
        """
        started = time.monotonic()
        next_log_seconds = SAY_AFTER_SECONDS
        while not is_done(SLICE_SECONDS):
            waited_seconds = time.monotonic() - started
            self._check_stop(started)
            if self._say is not None and waited_seconds >= SAY_AFTER_SECONDS:
                self._say(describe_silence(self._address, waited_seconds))
            if waited_seconds >= next_log_seconds:
                LOG.warning("waiting for %s", describe_silence(self._address, waited_seconds))
                next_log_seconds = waited_seconds + LOG_EVERY_SECONDS
        if next_log_seconds > SAY_AFTER_SECONDS:
            LOG.warning("the broker at %s answers again after %.0f s", self._address, time.monotonic() - started)

    def get(self, call: Callable[[], ResultT]) -> ResultT:
        """The result of a call that may block for ever; if told to stop, it is left to its thread.

        Raises:
            StoppedError: told to stop while waiting.
        """
        result: Future[ResultT] = Future()

        def work() -> None:
            try:
                result.set_result(call())
            except BaseException as error:  # it is raised where the result is awaited
                result.set_exception(error)

        threading.Thread(target=work, name="bus-call", daemon=True).start()
        self.wait(lambda seconds: _is_settled(result, seconds))
        return result.result()

    def _check_stop(self, started: float) -> None:
        if not self._stop.is_set():
            return
        now = time.monotonic()
        self._stopped_at = self._stopped_at or now
        if now >= max(self._stopped_at + STOP_GRACE_SECONDS, started + LEAST_GRACE_SECONDS):
            raise StoppedError(f"told to stop while the broker at {self._address} did not answer")


def describe_silence(address: str, seconds: float) -> str:
    """What a part waits for while a broker does not answer."""
    return f"the broker at {address} (no answer for {seconds:.0f} s)"


def _is_settled(future: "Future[ResultT]", seconds: float) -> bool:
    try:
        future.exception(seconds)
    except FutureTimeoutError:
        return future.done()
    return True

"""Looks after the broker that a run started: one that kept its log is started again, one that lost it ends the run."""

import threading
import time
from collections.abc import Callable

from tristream.local.broker import Broker
from tristream.runtime.errors import TryAgainError, UserError

MAX_STARTS = 3
"""So many starts in a row, each soon after the other, mean that starting again will not help."""
SOON_SECONDS = 60.0


class BrokerKeeper:
    """Watches one broker; used by one thread.

    Args:
        broker: a broker that runs.
        say: prints a line of news.
        stop: ends the waiting for a broker that starts.
    """

    def __init__(self, broker: Broker, say: Callable[[str], None], stop: threading.Event) -> None:
        self._broker = broker
        self._say = say
        self._stop = stop
        self._num_starts = 0
        self._started = 0.0

    def watch(self) -> None:
        """Start the broker again if it died.

        Raises:
            TryAgainError: its log is lost, or it dies again and again.
        """
        broker = self._broker
        if broker.is_running:
            return
        if not broker.durable:
            raise TryAgainError(
                f"the {broker.kind} broker ended, and its log with it (see {broker.log}); "
                "the same command resumes the run"
            )
        now = time.monotonic()
        self._num_starts = self._num_starts + 1 if now - self._started < SOON_SECONDS else 1
        if self._num_starts > MAX_STARTS:
            raise TryAgainError(
                f"the {broker.kind} broker ends again and again (see {broker.log}); the same command resumes the run"
            )
        self._say(f"the {broker.kind} broker ended; starting it again on {broker.bootstrap_servers} with its data")
        try:
            broker.start(self._stop)
        except UserError as error:
            raise TryAgainError(f"{error}; the same command resumes the run") from None
        self._started = time.monotonic()

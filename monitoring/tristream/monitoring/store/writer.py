"""Writing rows: a database that takes nothing is waited for without end, a row that it refuses is told apart.

    insert fails --> probe: does the database take a row that is known to be good?
                      no  --> wait with growing pauses, then all rows again     (away, full disk, too busy)
                      yes --> once more, then half of the rows at a time, until those that are refused are alone

Which errors mean what differs by version and by engine, so no list of them decides what is lost.
"""

import logging
import math
import struct
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

from tristream.monitoring.store.clickhouse import (
    FIRST_PAUSE_SECONDS,
    INSERT_SETTINGS,
    LONGEST_PAUSE_SECONDS,
    describe_error,
)
from tristream.monitoring.store.client import Client
from tristream.monitoring.store.tables import Row
from tristream.runtime.errors import TryAgainError

LOG = logging.getLogger("tristream.monitor")

ResultT = TypeVar("ResultT")

UNFIT = (TypeError, ValueError, OverflowError, AttributeError, struct.error)
"""What encoding a row raises before anything is sent; UnicodeEncodeError is a ValueError."""
STOP_SECONDS = 8.0
"""So long a database that takes nothing is waited for once the part is told to stop."""
SLOW_SECONDS = 5.0
"""An insert that takes longer is what the part waits for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """A row that was not written, and will never be."""

    position: int
    """Which of the rows given."""
    reason: str


class Writer:
    """Writes the rows of one run; used by one thread.

    Args:
        client: an open database with its tables; this thread's own.
        run: the run.
        report: told, from any thread, what is waited for; empty once it is there.
        pause: called again and again while the database takes nothing.
        stop: the part is told to stop.
    """

    def __init__(
        self,
        client: Client,
        run: str,
        *,
        report: Callable[[str], None],
        pause: Callable[[], None] = lambda: None,
        stop: threading.Event | None = None,
    ) -> None:
        self._client = client
        self._run = run
        self._report = report
        self._pause = pause
        self._stop = stop or threading.Event()
        self._stop_deadline = math.inf

    def write(self, table: str, columns: Sequence[str], rows: Sequence[Row], start: int = 0) -> list[Refusal]:
        """Write rows, and return those that the database refuses although it takes others.

        Raises:
            TryAgainError: the database took nothing for a while after the part was told to stop.
        """
        error = self._try(table, columns, rows)
        if error is None:
            return []
        while not isinstance(error, UNFIT):
            was_away = self._wait_for_database(error)
            error = self._try(table, columns, rows)
            if error is None:
                return []
            if not was_away:
                break
        if len(rows) == 1:
            return [Refusal(position=start, reason=describe_error(error))]
        middle = len(rows) // 2
        return [
            *self.write(table, columns, rows[:middle], start),
            *self.write(table, columns, rows[middle:], start + middle),
        ]

    def insist(self, ask: Callable[[Client], ResultT]) -> ResultT:
        """What the database answers, whenever it does.

        Args:
            ask: a statement that may be made more than once.

        Raises:
            TryAgainError: the database took nothing for a while after the part was told to stop.
            Exception: what the database refuses although it takes rows.
        """
        was_refused = False
        while True:
            try:
                with self._says_if_slow():
                    return ask(self._client)
            except Exception as error:
                was_away = self._wait_for_database(error)
                if was_refused and not was_away:
                    raise
                was_refused = not was_away

    def _try(self, table: str, columns: Sequence[str], rows: Sequence[Row]) -> Exception | None:
        """Insert once; what it raised, if it did."""
        if not rows:
            return None
        try:
            with self._says_if_slow():
                self._client.insert(table, rows, column_names=columns, settings=INSERT_SETTINGS)
        except Exception as error:
            LOG.debug("insert of %d rows into %s failed: %s", len(rows), table, error)
            return error
        return None

    def _wait_for_database(self, error: Exception) -> bool:
        """Wait until a row that is known to be good is taken; returns whether there was anything to wait for.

        Raises:
            TryAgainError: told to stop, and nothing is taken for a while after.
        """
        pause_seconds, waited = FIRST_PAUSE_SECONDS, False
        while (away := self._try("probes", ("run", "created"), [(self._run, time.time_ns())])) is not None:
            if not waited:
                LOG.warning("ClickHouse takes no rows, waiting: %s", describe_error(error))
            waited = True
            self._report(f"ClickHouse to take rows ({describe_error(away)})")
            self._pause()
            self._sleep(pause_seconds, away)
            pause_seconds = min(2 * pause_seconds, LONGEST_PAUSE_SECONDS)
        if waited:
            LOG.warning("ClickHouse takes rows again")
            self._report("")
        return waited

    def _sleep(self, seconds: float, away: Exception) -> None:
        """Sleep, less long once the part is told to stop, and not for ever then."""
        if not self._stop.wait(seconds):
            return
        self._stop_deadline = min(self._stop_deadline, time.monotonic() + STOP_SECONDS)
        if time.monotonic() > self._stop_deadline:
            raise TryAgainError(f"ClickHouse takes no rows ({describe_error(away)}); what is missing is read again")
        time.sleep(FIRST_PAUSE_SECONDS)

    @contextmanager
    def _says_if_slow(self) -> Iterator[None]:
        timer = threading.Timer(SLOW_SECONDS, self._report, ["ClickHouse to answer"])
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()

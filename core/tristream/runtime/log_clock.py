"""A clock that runs only while the log flows: time as counted by a process's own beats that come back to it.

A process that was frozen, or whose broker was away, missed things that others did in time. So nobody is called silent
and nothing is given up by the wall clock, but by this one.
"""

import time
from collections.abc import Callable

MOST_BEATS_A_GAP = 2.0
"""A gap between two beats counts for no more than so many beats, however long it was."""


class LogClock:
    """Seconds for which the log has been flowing; used by one thread, read by any."""

    def __init__(self, beat_seconds: float, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self.seconds = 0.0
        """It never goes back, and never faster than time itself."""
        self.num_standstills = 0
        """How often the log stood still for longer than a gap counts."""
        self._most_seconds = MOST_BEATS_A_GAP * beat_seconds
        self._monotonic = monotonic
        self._last: tuple[float, int] | None = None

    def take(self, timestamp_ns: int) -> None:
        """Take one of the process's own beats, as it comes back over the log.

        Args:
            timestamp_ns: when the broker took it. Beats that were held up come back at once, and others were never
                sent, so that a gap is the smaller one of the time between their timestamps and of that between their
                arrivals.
        """
        now = self._monotonic()
        if self._last is not None:
            arrived_seconds, sent_ns = self._last
            since_arrival = now - arrived_seconds
            since_sent = (timestamp_ns - sent_ns) / 1e9
            self.seconds += max(0.0, min(since_arrival, since_sent, self._most_seconds))
            self.num_standstills += since_arrival > self._most_seconds
        self._last = (now, timestamp_ns)

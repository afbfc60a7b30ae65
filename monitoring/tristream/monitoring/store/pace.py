"""How often something is done that costs, so that it takes a bounded share of a core."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

WALL_SHARE = 0.25
"""Of the time that passes so much counts at least, because a server computes while this thread waits for it. Beside
training, most of the time that passes is waiting for a core."""


class Pace:
    """Says when to do it again; used by one thread.

    Args:
        share: of a core, at most.
        pause_seconds: least time between two times.
    """

    def __init__(self, share: float, pause_seconds: float = 0.0) -> None:
        self._share = share
        self._pause_seconds = pause_seconds
        self._next_seconds = 0.0

    @property
    def is_due(self) -> bool:
        """Whether it may be done again."""
        return time.monotonic() >= self._next_seconds

    @contextmanager
    def counts(self) -> Iterator[None]:
        """What is done inside costs."""
        cpu_seconds, wall_seconds = time.thread_time(), time.monotonic()
        yield
        now = time.monotonic()
        cost_seconds = max(time.thread_time() - cpu_seconds, WALL_SHARE * (now - wall_seconds))
        self._next_seconds = now + max(self._pause_seconds, cost_seconds / self._share)

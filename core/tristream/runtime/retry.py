"""Waiting for something outside to work again: a store that answers 503, a disk that is full."""

import threading
from collections.abc import Callable
from typing import TypeVar

from tristream.runtime.errors import StoppedError

ResultT = TypeVar("ResultT")

FIRST_PAUSE_SECONDS = 0.5
LONGEST_PAUSE_SECONDS = 5.0


def retry(
    work: Callable[[], ResultT],
    *,
    errors: tuple[type[Exception], ...],
    say: Callable[[str], None],
    stop: threading.Event,
) -> ResultT:
    """Do some work, again and again until it does not raise one of ``errors``; pauses grow from 0.5 to 5 s.

    Args:
        work: what to do.
        errors: what passes by itself; everything else is raised.
        say: is told each of these errors, in words, such as to report what the part waits for.
        stop: ends the waiting.

    Raises:
        StoppedError: told to stop while waiting.
    """
    pause_seconds = FIRST_PAUSE_SECONDS
    while True:
        try:
            return work()
        except errors as error:
            say(str(error))
        if stop.wait(pause_seconds):
            raise StoppedError
        pause_seconds = min(2 * pause_seconds, LONGEST_PAUSE_SECONDS)

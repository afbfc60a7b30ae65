"""How long a part waits for what: seconds by reason, so that a rate of them is a share of its time."""

import re
import time
from collections import defaultdict
from collections.abc import Callable, Mapping

MAX_REASONS = 30
"""Different reasons that are told apart; the time of further ones is that of ``OTHER``."""
MAX_CHARACTERS = 80
OTHER = "other"

_VARYING = re.compile(r"[0-9]+(?:[.:][0-9]+)*")


class WaitClock:
    """Adds up the time by what was waited for; used under a lock."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._reason = ""
        self._since = now()
        self._seconds: defaultdict[str, float] = defaultdict(float)

    def observe(self, waiting_for: str) -> None:
        """From now on it waits for this, in words; empty if it works."""
        self._settle()
        self._reason = to_reason(waiting_for)

    def seconds(self) -> Mapping[str, float]:
        """Seconds by reason, the wait that goes on with them."""
        self._settle()
        return dict(self._seconds)

    def _settle(self) -> None:
        now = self._now()
        if self._reason:
            is_known = self._reason in self._seconds or len(self._seconds) < MAX_REASONS
            self._seconds[self._reason if is_known else OTHER] += now - self._since
        self._since = now


def to_reason(waiting_for: str) -> str:
    """What is waited for without the numbers in it, which change all the time.

    Example:
        >>> to_reason("policy version 12 (staleness bound)")
        'policy version N (staleness bound)'
    """
    return _VARYING.sub("N", waiting_for)[:MAX_CHARACTERS]

"""Whether somebody looks at a run: figures are for people, so what nobody looks at may wait a little."""

import math
import time

LOOKS_SECONDS = 15.0
"""Somebody who asked so recently still looks: pages and dashboards ask again and again."""


class Audience:
    """Told of every question of people; used from any thread."""

    def __init__(self) -> None:
        self._asked = -math.inf

    def note(self) -> None:
        """Somebody asks now."""
        self._asked = time.monotonic()

    @property
    def is_there(self) -> bool:
        """Whether somebody asked a moment ago."""
        return time.monotonic() - self._asked < LOOKS_SECONDS

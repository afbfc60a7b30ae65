"""The held-out rounds of a run in progress, as its monitor counts them."""

import json
import time
import urllib.request
from collections.abc import Callable, Iterable
from typing import Any

ASK_SECONDS = 2.0
TIMEOUT_SECONDS = 2.0


class HeldOut:
    """Asks the live page when a round has all its answers, and announces it."""

    def __init__(self, announce: Callable[[str], None]) -> None:
        self._announce = announce
        self._next_time = 0.0
        self._announced: set[int] = set()
        self.sources: dict[str, dict[str, Any]] = {}
        """By source: ``before`` and ``now``, the first and the newest complete round, or None."""

    def update(self, url: str, answered_versions: Iterable[int]) -> None:
        """Ask if there is a new round; a page that does not know it yet is asked again later."""
        if not url or set(answered_versions) <= self._announced or time.monotonic() < self._next_time:
            return
        self._next_time = time.monotonic() + ASK_SECONDS
        try:
            with urllib.request.urlopen(f"{url.rstrip('/')}/api/overview", timeout=TIMEOUT_SECONDS) as response:
                self.sources = json.load(response)["evaluation"]
        except (OSError, ValueError):
            return
        for step, values in sorted(complete_rounds(self.sources).items()):
            if step not in self._announced:
                self._announced.add(step)
                numbers = ", ".join(f"{source} {value:.3f}" for source, value in values.items())
                mean = sum(values.values()) / len(values)
                self._announce(f"held-out at step {step}: mean {mean:.3f} ({numbers})")


def complete_rounds(sources: dict[str, dict[str, Any]]) -> dict[int, dict[str, float]]:
    """Value by source of every round that all sources have completed, by step."""
    rounds: dict[int, dict[str, float]] = {}
    for source, facts in sources.items():
        for row in facts["rounds"]:
            if row["is_complete"]:
                rounds.setdefault(row["eval_step"], {})[source] = row["value"]
    return {step: values for step, values in rounds.items() if len(values) == len(sources)}

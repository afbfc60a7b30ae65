"""The held-out rounds of a run in progress, as its monitor counts them."""

import json
import time
import urllib.request
from collections.abc import Callable, Mapping
from typing import Any

ASK_SECONDS = 2.0
TIMEOUT_SECONDS = 2.0
PATIENCE_SECONDS = 30.0
"""A page that does not know an answered round yet is asked again for so long."""

RoundKey = tuple[int, int]
"""Evaluated version, and which evaluation of it."""


class HeldOut:
    """Asks the live page when a round has all its answers, and announces it."""

    def __init__(self, announce: Callable[[str], None]) -> None:
        self._announce = announce
        self._num_rounds = 0
        self._num_missing = 0
        """Answered rounds that the page has not shown yet."""
        self._ask_from = self._ask_until = 0.0
        self._announced: set[RoundKey] = set()
        self.sources: Mapping[str, Mapping[str, Any]] = {}
        """By source: ``before`` and ``now``, the first and the newest complete round, or None."""

    def update(self, url: str, num_rounds: int) -> None:
        """Ask if there is a new round.

        Args:
            url: address of the live page; empty while it is unknown.
            num_rounds: rounds that have all their answers, as the dispatcher counts them on the log.
        """
        now = time.monotonic()
        if num_rounds != self._num_rounds:
            self._num_missing += max(0, num_rounds - self._num_rounds)
            self._num_rounds = num_rounds
            self._ask_until = now + PATIENCE_SECONDS
        if not url or self._num_missing == 0 or not self._ask_from <= now < self._ask_until:
            return
        self._ask_from = now + ASK_SECONDS
        try:
            with urllib.request.urlopen(f"{url.rstrip('/')}/api/evaluation", timeout=TIMEOUT_SECONDS) as response:
                self.sources = json.load(response)["evaluation"]
        except (OSError, ValueError):
            return
        num_new = self._announce_new(complete_rounds(self.sources))
        # A resumed run shows rounds that the log of an embedded broker has lost, so the one waited for may be missing.
        if num_new <= self._num_missing:
            self._num_missing -= num_new

    def _announce_new(self, rounds: Mapping[RoundKey, Mapping[str, float]]) -> int:
        new = sorted(set(rounds) - self._announced)
        for step, attempt in new:
            values = rounds[step, attempt]
            numbers = ", ".join(f"{source} {value:.3f}" for source, value in values.items())
            place = f"step {step}{', trained anew' if attempt else ''}"
            self._announce(f"held-out at {place}: mean {sum(values.values()) / len(values):.3f} ({numbers})")
        self._announced.update(new)
        return len(new)


def complete_rounds(sources: Mapping[str, Mapping[str, Any]]) -> dict[RoundKey, dict[str, float]]:
    """Value by source of every round that all sources have completed, by step and attempt."""
    rounds: dict[RoundKey, dict[str, float]] = {}
    for source, facts in sources.items():
        for row in facts["rounds"]:
            if row["is_complete"]:
                rounds.setdefault((row["eval_step"], row["eval_attempt"]), {})[source] = row["value"]
    return {key: values for key, values in rounds.items() if len(values) == len(sources)}

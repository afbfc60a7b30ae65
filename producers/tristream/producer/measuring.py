"""What a producer has done and does, as measures of its status.

Rates and shares are those of the last ten seconds, so that a status is as true as it is new.
"""

import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field

from tristream.producer.engines.protocol import Engine
from tristream.wire.events import Prompt, Rollout

WINDOW_SECONDS = 10.0
"""Time over which rates and shares are taken."""
SAMPLE_SECONDS = 1.0
"""Least time between two looks back."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Look:
    """What was counted up to a time."""

    seconds: float
    busy_seconds: float
    idle_seconds: float
    tokens: Counter[str]


@dataclass(slots=True, kw_only=True)
class Meter:
    """Counts; used from the event loop.

    Args:
        engine: whose slots are watched.
        now: a clock, in seconds.
    """

    engine: Engine
    now: Callable[[], float] = time.monotonic
    num_unfinished: int = 0
    """Rollouts of the prompts in work that are still to be made."""
    num_rollouts: int = 0
    num_tokens: int = 0
    num_failed_prompts: int = 0
    num_failed_rollouts: int = 0
    _tokens: Counter[str] = field(default_factory=Counter)
    _busy_seconds: float = 0.0
    _idle_seconds: float = 0.0
    _watched_at: float | None = None
    _free_share: float = 0.0
    _looks: deque[_Look] = field(default_factory=deque)

    def note_taken(self, prompt: Prompt) -> None:
        """A prompt is in work."""
        self.watch()
        self.num_unfinished += prompt.group.size

    def note_generated(self, rollout: Rollout) -> None:
        """A rollout is made, or has failed."""
        self.watch()
        self.num_unfinished -= 1
        self._tokens[rollout.group.source] += rollout.num_sampled_tokens

    def note_delivered(self, rollout: Rollout) -> None:
        """A rollout is acknowledged that has not failed."""
        self.num_rollouts += 1
        self.num_tokens += rollout.num_sampled_tokens

    def note_failures(self, num_rollouts: int, *, is_whole_prompt: bool) -> None:
        """Rollouts of one prompt failed."""
        self.num_failed_rollouts += num_rollouts
        self.num_failed_prompts += is_whole_prompt

    def watch(self) -> None:
        """Look at the engine's slots; what was seen last counts until now, if there was work."""
        now = self.now()
        if self._watched_at is not None and self.num_unfinished > 0:
            self._busy_seconds += now - self._watched_at
            self._idle_seconds += (now - self._watched_at) * self._free_share
        self._watched_at = now
        self._free_share = 1.0 - min(1.0, self.engine.num_running / self.engine.max_running)

    def measures(self) -> dict[str, float]:
        """All that a status says, by name; rates by source are those of all sources that were seen."""
        self.watch()
        now = _Look(
            seconds=self.now(),
            busy_seconds=self._busy_seconds,
            idle_seconds=self._idle_seconds,
            tokens=self._tokens.copy(),
        )
        before = self._look_back(now)
        seconds, counts = max(now.seconds - before.seconds, 1e-6), self.engine.counts
        rates = {source: round((total - before.tokens[source]) / seconds, 1) for source, total in now.tokens.items()}
        busy_seconds = now.busy_seconds - before.busy_seconds
        idle_share = (now.idle_seconds - before.idle_seconds) / busy_seconds if busy_seconds > 0 else 0.0
        version, num_running = self.engine.version, self.engine.num_running
        return {
            **({} if version is None else {"version": version}),
            "num_rollouts": self.num_rollouts,
            "num_tokens": self.num_tokens,
            "num_failed_prompts": self.num_failed_prompts,
            "num_failed_rollouts": self.num_failed_rollouts,
            "num_running": num_running,
            "num_waiting": max(0, self.num_unfinished - num_running),
            "idle_share": round(idle_share, 4),
            "cached_prompt_share": round(counts.cached_prompt_tokens / max(1, counts.prompt_tokens), 4),
            "tokens_per_second": round(sum(rates.values()), 1),
            **{f"tokens_per_second/{source}": rate for source, rate in rates.items()},
        }

    def _look_back(self, now: _Look) -> _Look:
        """What was counted up to ten seconds ago; keeps what is counted now."""
        looks = self._looks
        if not looks or now.seconds - looks[-1].seconds >= SAMPLE_SECONDS:
            looks.append(now)
        while len(looks) > 1 and looks[1].seconds <= now.seconds - WINDOW_SECONDS:
            looks.popleft()
        return looks[0]

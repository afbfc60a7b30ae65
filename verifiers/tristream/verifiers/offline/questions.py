"""What is asked of a pool without a broker, and what a format of lines makes of it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from tristream.verifiers.contract import Rollout
from tristream.verifiers.pool.tasks import Judgement, Task, Verdict
from tristream.wire.events import RewardSpec

FinalReward = Callable[[RewardSpec, Mapping[str, Mapping[str, float | None]]], float | None]
"""Combines component values, None where a verifier abstains, by term id; None if there is no reward."""


class LineError(ValueError):
    """A line that asks nothing: what is wrong with it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What one line asks."""

    fields: Mapping[str, Any]
    """The line as it came."""
    verifier: str
    """``NAME@VERSION``."""
    rollout: Rollout
    params_json: str = "{}"
    weights: Mapping[str, float] = field(default_factory=dict)
    """Weight of each component by its name; empty if the line has none."""
    group: str = ""
    """Neighbouring lines of one group are judged together by a verifier of scope ``group``; empty for none."""
    known: Verdict | None = None
    """The verdict, where nobody needs to be asked."""

    @property
    def task(self) -> Task:
        """What the pool is asked."""
        return Task(verifier=self.verifier, rollouts=(self.rollout,), params_json=self.params_json)


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What is said to one line."""

    fields: Mapping[str, Any]
    """The line that is written."""
    verifier: str = ""
    """``NAME@VERSION``; empty for a bad line."""
    verdict: Verdict | None = None
    """None for a bad line."""
    final_reward: float | None = None


class LineFormat(Protocol):
    """How lines ask, and how they are answered."""

    def read(self, fields: Mapping[str, Any]) -> Question:
        """What a line asks.

        Raises:
            LineError: a field is missing or makes no sense.
        """
        ...

    def write(self, question: Question, verdict: Verdict, judgement: Judgement | None) -> Answer:
        """The answer; ``judgement`` is that of the question's own rollout, None unless it is scored."""
        ...

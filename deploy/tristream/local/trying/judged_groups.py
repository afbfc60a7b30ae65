"""Groups that were answered and judged, as far as figures and advice need to know them."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from tristream.assembler.rewards import final_reward, has_zero_variance
from tristream.verifiers.definition import Range
from tristream.verifiers.pool.tasks import Judgement
from tristream.wire.events import OnUnscored, Prompt, RewardSpec, RewardTerm, Rollout, Status
from tristream.wire.verifiers import versioned_name

NO_JUDGEMENT = Judgement()
EQUAL_REWARDS = 1e-9
"""Rewards that differ by less are the same."""

Ranges = Mapping[str, Mapping[str, Range]]
"""Range of each component by ``NAME@VERSION`` of its verifier."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TermVerdict:
    """What came of one reward term of an answer."""

    term: RewardTerm
    status: Status
    detail: str = ""
    """Why there is no score."""
    judgement: Judgement = NO_JUDGEMENT
    seconds: float = 0.0
    """Time that the verifier took; of a verifier of groups the first answer has that of all."""
    is_async: bool = False
    """Whether the verifier waits, and judges others meanwhile."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgedAnswer:
    """One answer and what it is worth."""

    rollout: Rollout
    verdicts: tuple[TermVerdict, ...] = ()
    """One a term of the prompt, in order; none if there is no answer."""
    reward: float | None = None
    """None if it failed or has no complete score."""


class GroupKind(StrEnum):
    """What a group has to teach."""

    MIXED = "mixed"
    """Its rewards differ: it is trained."""
    ALL_RIGHT = "all_right"
    """Every answer has the highest reward that there is."""
    ALL_WRONG = "all_wrong"
    """No answer has any reward."""
    ALL_EQUAL = "all_equal"
    """Every answer has the same reward, between the two."""
    UNSCORED = "unscored"
    """Too few of its answers have a reward."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgedGroup:
    """All answers to one prompt, judged."""

    prompt: Prompt
    answers: tuple[JudgedAnswer, ...]
    highest_reward: float = 1.0
    """What the best answer that one can think of would earn."""
    started_seconds: float = 0.0
    """When its answers were asked for, by the monotonic clock."""
    answered_seconds: float = 0.0
    """When the last of them was there."""
    rewards: tuple[float, ...] = field(init=False)
    """Of the answers that have one."""

    def __post_init__(self) -> None:
        rewards = tuple(answer.reward for answer in self.answers if answer.reward is not None)
        object.__setattr__(self, "rewards", rewards)

    @property
    def kind(self) -> GroupKind:
        """What it has to teach."""
        wants_all = self.prompt.reward.on_unscored is OnUnscored.DROP_GROUP
        if len(self.rewards) < 2 or (wants_all and len(self.rewards) < len(self.answers)):
            return GroupKind.UNSCORED
        if not has_zero_variance(self.rewards):
            return GroupKind.MIXED
        if max(self.rewards) >= self.highest_reward - EQUAL_REWARDS:
            return GroupKind.ALL_RIGHT
        return GroupKind.ALL_WRONG if max(self.rewards) <= EQUAL_REWARDS else GroupKind.ALL_EQUAL


def highest_reward(spec: RewardSpec, ranges: Ranges) -> float:
    """The reward of an answer for which each component is as good as it can be."""
    best: dict[str, dict[str, float | None]] = {}
    for term in spec.terms:
        components = ranges.get(versioned_name(term.verifier, term.version), {})
        is_good = {name: term.weights.get(name, 0) > 0 for name in components}
        best[term.id] = {name: high if is_good[name] else low for name, (low, high) in components.items()}
    reward = final_reward(spec, best)
    return math.inf if reward is None else reward

"""Which answers of a source people are shown: a right one and a wrong one, where there are; pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from tristream.local.trying.judged_groups import EQUAL_REWARDS, GroupKind, JudgedAnswer, JudgedGroup
from tristream.wire.events import FinishReason


class Caption(StrEnum):
    """What kind of answer is shown."""

    RIGHT = "right"
    WRONG = "wrong"
    BETWEEN = "neither right nor wrong"
    UNSCORED = "without a reward"
    FAILED = "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class ShownAnswer:
    """One answer to show."""

    group: JudgedGroup
    answer: JudgedAnswer

    @property
    def caption(self) -> Caption:
        """What kind of answer it is."""
        if self.answer.rollout.finish_reason is FinishReason.ERROR:
            return Caption.FAILED
        if self.answer.reward is None:
            return Caption.UNSCORED
        if self.answer.reward >= self.group.highest_reward - EQUAL_REWARDS:
            return Caption.RIGHT
        return Caption.WRONG if self.answer.reward <= EQUAL_REWARDS else Caption.BETWEEN

    @property
    def reward(self) -> float:
        """Its reward; less than any other if it has none."""
        return -float("inf") if self.answer.reward is None else self.answer.reward


def choose_answers(groups: Sequence[JudgedGroup]) -> list[ShownAnswer]:
    """At most two answers: the best and the worst with a reward, of a mixed group if there is one.

    Where all rewards are alike, it is one answer each of two groups; where there are none, one that says why.
    """
    mixed_first = sorted(groups, key=lambda group: group.kind is not GroupKind.MIXED)
    shown = [ShownAnswer(group=group, answer=answer) for group in mixed_first for answer in group.answers]
    rewarded = [each for each in shown if each.answer.reward is not None]
    if not rewarded:
        return shown[:1]
    # Of several that are alike, max and min take the first one, so that both are of the first group where it is mixed.
    best, worst = max(rewarded, key=lambda each: each.reward), min(rewarded, key=lambda each: each.reward)
    if best.reward - worst.reward >= EQUAL_REWARDS:
        return [best, worst]
    others = [each for each in rewarded if each.group is not rewarded[0].group]
    return [rewarded[0], *others[:1]]

"""The training reward is over every judged rollout: of trained groups, and of dropped ones."""

import pytest

from tristream.assembler.judged_rewards import JudgedRewards
from tristream.wire.events import DropReason, Fate, Group, Outcome, RolloutOutcome, Split


def make_outcome(
    number: int, rewards: list[float | None], reason: DropReason | None = None, source: str = "a"
) -> Outcome:
    """A group whose rollouts have these rewards; one without is not valid."""
    group = Group(run="r", split=Split.TRAIN, number=number, source=source, sample_id=str(number), size=len(rewards))
    worth = [RolloutOutcome(index=i, valid=value is not None, reward=value or 0.0) for i, value in enumerate(rewards)]
    fate = Fate.TRAINED if reason is None else Fate.DROPPED
    return Outcome(group=group, fate=fate, drop_reason=reason, rollouts=tuple(worth), created_ns=1)


def test_groups_that_taught_nothing_count_with_the_batch_that_follows_them() -> None:
    rewards = JudgedRewards()
    rewards.drop(make_outcome(0, [1.0, 1.0, 1.0, 1.0], DropReason.ZERO_VARIANCE))
    rewards.drop(make_outcome(1, [0.0, None, None, None], DropReason.TOO_FEW_VALID))
    rewards.drop(make_outcome(2, [0.0, 0.0], DropReason.ZERO_VARIANCE, source="b"))
    assert rewards.means == {}, "there is no batch yet"
    rewards.train([make_outcome(3, [1.0, 0.0, None, 0.5])])
    assert rewards.means == {"a": pytest.approx(5.5 / 8), "b": 0.0}


def test_each_drop_counts_once_and_a_source_that_is_silent_keeps_its_mean() -> None:
    rewards = JudgedRewards()
    rewards.drop(make_outcome(0, [1.0, 1.0], DropReason.STALE))
    rewards.train([make_outcome(1, [0.0, 1.0], source="b")])
    rewards.train([make_outcome(2, [0.0, 0.5], source="b")])
    assert rewards.means == {"a": 1.0, "b": 0.25}


def test_a_group_with_two_prompts_does_not_count() -> None:
    rewards = JudgedRewards()
    rewards.drop(make_outcome(0, [1.0, 1.0], DropReason.CONFLICTING))
    rewards.train([make_outcome(1, [0.0, 0.5])])
    assert rewards.means == {"a": 0.25}

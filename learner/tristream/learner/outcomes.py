"""Outcomes of a batch: what the algorithm adds to them, and what is read off them."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType

from tristream.learner.algorithms.protocol import Advantages
from tristream.learner.training.sequences import RolloutKey
from tristream.wire.events import Outcome


def with_advantages(
    outcomes: Sequence[Outcome],
    advantages: Advantages,
    penalties: Mapping[RolloutKey, float] = MappingProxyType({}),
) -> tuple[Outcome, ...]:
    """The outcomes of a whole batch with the advantage of each valid rollout.

    Args:
        outcomes: of the whole batch; their rewards stay as they are.
        advantages: from rewards to advantages.
        penalties: what is taken off the reward of a rollout before that.
    """
    rewards = [
        [
            rollout.reward - penalties.get(RolloutKey(group_number=outcome.group.number, index=rollout.index), 0.0)
            for rollout in outcome.rollouts
            if rollout.valid
        ]
        for outcome in outcomes
    ]
    return tuple(
        _with_advantages(outcome, of_group) for outcome, of_group in zip(outcomes, advantages(rewards), strict=True)
    )


def advantage_by_rollout(outcomes: Iterable[Outcome]) -> dict[RolloutKey, float]:
    """The advantage of each valid rollout."""
    return {
        RolloutKey(group_number=outcome.group.number, index=rollout.index): rollout.advantage
        for outcome in outcomes
        for rollout in outcome.rollouts
        if rollout.valid
    }


def age_by_rollout(outcomes: Iterable[Outcome]) -> dict[RolloutKey, int]:
    """The age of each rollout, in policy versions."""
    return {
        RolloutKey(group_number=outcome.group.number, index=rollout.index): rollout.age
        for outcome in outcomes
        for rollout in outcome.rollouts
    }


def mean_rewards(outcomes: Iterable[Outcome]) -> dict[str, float]:
    """Mean final reward of each source over its valid rollouts, in the outcomes given and no others."""
    rewards: dict[str, list[float]] = defaultdict(list)
    for outcome in outcomes:
        rewards[outcome.group.source].extend(rollout.reward for rollout in outcome.rollouts if rollout.valid)
    return {source: sum(values) / len(values) for source, values in sorted(rewards.items()) if values}


def _with_advantages(outcome: Outcome, advantages: Iterable[float]) -> Outcome:
    left = iter(advantages)
    rollouts = tuple(
        replace(rollout, advantage=next(left)) if rollout.valid else rollout for rollout in outcome.rollouts
    )
    return replace(outcome, rollouts=rollouts)

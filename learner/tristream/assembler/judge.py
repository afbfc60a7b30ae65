"""Judging a complete group: its final rewards and advantages, or the reason to drop it."""

from dataclasses import dataclass

from tristream.assembler.join import OpenGroup
from tristream.assembler.rewards import final_reward, group_advantages, has_zero_variance
from tristream.wire.events import FinishReason, Group, Image, OnUnscored, Rollout, RolloutOutcome


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoredGroup:
    """A group that can be trained."""

    group: Group
    images: tuple[Image, ...]
    rollouts: tuple[Rollout, ...]
    """All its rollouts by index."""
    outcomes: tuple[RolloutOutcome, ...]
    """What each rollout is worth, by index."""
    oldest_version: int
    first_offsets: dict[tuple[str, int], int]

    @property
    def num_tokens(self) -> int:
        """Prompt and completion tokens of its valid rollouts."""
        return sum(
            len(rollout.prompt_tokens) + len(rollout.completion_tokens)
            for rollout, outcome in zip(self.rollouts, self.outcomes, strict=True)
            if outcome.valid
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Rejection:
    """Why a group is dropped, and what its rollouts were worth."""

    group: Group
    reason: str
    outcomes: tuple[RolloutOutcome, ...]
    oldest_version: int


def judge(state: OpenGroup, *, drop_zero_variance: bool) -> ScoredGroup | Rejection:
    """Score a complete group, or reject it.

    Reasons: ``unscored`` (the sample asks to drop the group when a score is missing), ``too_few_valid``
    (fewer than two rollouts have a reward) and ``zero_variance``.
    """
    rollouts = tuple(state.rollouts[index] for index in sorted(state.rollouts))
    rewards = {rollout.index: rollout_reward(state, rollout) for rollout in rollouts}
    valid = {index: reward for index, reward in rewards.items() if reward is not None}
    oldest_version = min((r.oldest_version for r in rollouts if r.version_spans), default=-1)

    def reject(reason: str) -> Rejection:
        return Rejection(
            group=state.group, reason=reason, outcomes=_outcomes(rollouts, valid, {}), oldest_version=oldest_version
        )

    wants_all = rollouts[0].reward.on_unscored is OnUnscored.DROP_GROUP
    if wants_all and len(valid) < len(rollouts):
        return reject("unscored")
    if len(valid) < 2:
        return reject("too_few_valid")
    if drop_zero_variance and has_zero_variance(list(valid.values())):
        return reject("zero_variance")
    advantages = dict(zip(valid, group_advantages(list(valid.values())), strict=True))
    return ScoredGroup(
        group=state.group,
        images=rollouts[0].images,
        rollouts=rollouts,
        outcomes=_outcomes(rollouts, valid, advantages),
        oldest_version=oldest_version,
        first_offsets=state.first_offsets,
    )


def rollout_reward(state: OpenGroup, rollout: Rollout) -> float | None:
    """Final reward of one rollout; None if it failed or has no complete score."""
    if rollout.finish_reason is FinishReason.ERROR or not rollout.completion_tokens:
        return None
    return final_reward(rollout.reward, state.components(rollout.index))


def _outcomes(
    rollouts: tuple[Rollout, ...], rewards: dict[int, float], advantages: dict[int, float]
) -> tuple[RolloutOutcome, ...]:
    return tuple(
        RolloutOutcome(
            index=rollout.index,
            valid=rollout.index in rewards,
            reward=rewards.get(rollout.index, 0.0),
            advantage=advantages.get(rollout.index, 0.0),
        )
        for rollout in rollouts
    )

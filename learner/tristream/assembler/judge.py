"""Judging a complete group: its final rewards, or the reason to drop it.

Rewards and zero variance are computed here and nowhere else; everybody else reads them from outcomes.
"""

from dataclasses import dataclass, replace

from tristream.assembler.facts import JoinedRollout
from tristream.assembler.join import OpenGroup
from tristream.assembler.rewards import final_reward, has_zero_variance
from tristream.wire.batches import TrainingRollout
from tristream.wire.events import DropReason, Fate, Group, OnUnscored, Outcome, RolloutOutcome


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoredGroup:
    """A group that can be trained."""

    group: Group
    rollouts: tuple[TrainingRollout, ...]
    """Its valid rollouts by index."""
    rollout_outcomes: tuple[RolloutOutcome, ...]
    """What each of its rollouts is worth, by index."""
    oldest_versions: tuple[int, ...]
    """Oldest policy version of each of its rollouts, by index."""
    oldest_version: int
    """Oldest policy version among all its rollouts."""
    has_zero_variance: bool
    digest: str
    """Digest of its prompt; empty if nobody names one."""
    first_offsets: dict[tuple[str, int], int]

    @property
    def num_sampled_tokens(self) -> int:
        """Sampled tokens of its valid rollouts."""
        return sum(rollout.num_sampled_tokens for rollout in self.rollouts)

    def trained_outcome(self, step: int, now_ns: int) -> Outcome:
        """Its outcome in the batch of ``step``: ages are set, advantages are the learner's to set."""
        ages = [age_in_versions(step, version) for version in self.oldest_versions]
        pairs = zip(self.rollout_outcomes, ages, strict=True)
        rollouts = tuple([replace(rollout, age=age) if rollout.valid and age else rollout for rollout, age in pairs])
        return Outcome(
            group=self.group,
            fate=Fate.TRAINED,
            step=step,
            rollouts=rollouts,
            oldest_version=self.oldest_version,
            has_zero_variance=self.has_zero_variance,
            created_ns=now_ns,
        )

    def dropped_outcome(self, reason: DropReason, now_ns: int) -> Outcome:
        """Its outcome if no batch may take it, such as because none took it in time."""
        return Outcome(
            group=self.group,
            fate=Fate.DROPPED,
            drop_reason=reason,
            rollouts=self.rollout_outcomes,
            oldest_version=self.oldest_version,
            has_zero_variance=self.has_zero_variance,
            created_ns=now_ns,
        )


def age_in_versions(step: int, oldest_version: int) -> int:
    """Age of a rollout in the batch of ``step``, which trains version ``step - 1``; 0 without tokens (version -1)."""
    return max(0, step - 1 - oldest_version) if oldest_version >= 0 else 0


def judge(state: OpenGroup, *, drop_zero_variance: bool, now_ns: int) -> ScoredGroup | Outcome:
    """Score a complete training group, or say why it is dropped.

    Reasons: ``UNSCORED`` (the sample asks to drop the group when a score is missing), ``TOO_FEW_VALID``
    (fewer than two rollouts have a reward), ``ZERO_VARIANCE``, and ``CONFLICTING`` (two prompts of its number differ).
    """
    rollouts = _in_order(state)
    outcomes = _rollout_outcomes(state, rollouts)
    is_flat = _is_flat(outcomes)
    reason = _drop_reason(state, outcomes, is_flat=is_flat and drop_zero_variance)
    if reason is not None:
        return dropped_outcome(state, reason, now_ns)
    return ScoredGroup(
        group=state.group,
        rollouts=tuple(rollout.training for rollout, outcome in zip(rollouts, outcomes, strict=True) if outcome.valid),
        rollout_outcomes=outcomes,
        oldest_versions=tuple(rollout.oldest_version for rollout in rollouts),
        oldest_version=_oldest_version(rollouts),
        has_zero_variance=is_flat,
        digest=state.digest,
        first_offsets=state.first_offsets,
    )


def dropped_outcome(state: OpenGroup, reason: DropReason, now_ns: int) -> Outcome:
    """The outcome of a training group that is not trained; it names what rollouts there were."""
    rollouts = _in_order(state)
    outcomes = _rollout_outcomes(state, rollouts)
    return Outcome(
        group=state.group,
        fate=Fate.DROPPED,
        drop_reason=reason,
        rollouts=outcomes,
        oldest_version=_oldest_version(rollouts),
        has_zero_variance=_is_flat(outcomes),
        created_ns=now_ns,
    )


def evaluated_outcome(state: OpenGroup, now_ns: int) -> Outcome:
    """The outcome of an evaluation group; what is there counts, if it is not complete."""
    rollouts = _in_order(state)
    outcomes = _rollout_outcomes(state, rollouts)
    return Outcome(
        group=state.group,
        fate=Fate.EVALUATED,
        step=state.group.eval_step,
        rollouts=outcomes,
        oldest_version=_oldest_version(rollouts),
        has_zero_variance=_is_flat(outcomes),
        created_ns=now_ns,
    )


def _in_order(state: OpenGroup) -> tuple[JoinedRollout, ...]:
    return tuple(state.rollouts[index] for index in sorted(state.rollouts))


def _rollout_outcomes(state: OpenGroup, rollouts: tuple[JoinedRollout, ...]) -> tuple[RolloutOutcome, ...]:
    rewards = {rollout.training.index: _rollout_reward(state, rollout) for rollout in rollouts}
    return tuple(
        RolloutOutcome(index=index, valid=reward is not None, reward=reward or 0.0) for index, reward in rewards.items()
    )


def _rollout_reward(state: OpenGroup, rollout: JoinedRollout) -> float | None:
    """Final reward of one rollout; None if it failed or has no complete score."""
    if rollout.has_failed or not rollout.is_judged or state.definition is None:
        return None
    return final_reward(state.definition, state.components(rollout.training.index))


def _drop_reason(state: OpenGroup, outcomes: tuple[RolloutOutcome, ...], *, is_flat: bool) -> DropReason | None:
    if state.is_conflicting:
        return DropReason.CONFLICTING
    num_valid = sum(outcome.valid for outcome in outcomes)
    wants_all = state.definition is not None and state.definition.on_unscored is OnUnscored.DROP_GROUP
    if wants_all and num_valid < len(outcomes):
        return DropReason.UNSCORED
    if num_valid < 2:
        return DropReason.TOO_FEW_VALID
    return DropReason.ZERO_VARIANCE if is_flat else None


def _is_flat(outcomes: tuple[RolloutOutcome, ...]) -> bool:
    return has_zero_variance([outcome.reward for outcome in outcomes if outcome.valid])


def _oldest_version(rollouts: tuple[JoinedRollout, ...]) -> int:
    return min((rollout.oldest_version for rollout in rollouts if rollout.oldest_version >= 0), default=-1)

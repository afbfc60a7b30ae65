"""Facts: what the assembler keeps of events, without the texts and whatever else it does not need."""

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tristream.wire.batches import TrainingRollout
from tristream.wire.events import (
    Fate,
    FinishReason,
    Group,
    Outcome,
    Part,
    Prompt,
    Reward,
    RewardSpec,
    Rollout,
    Segment,
    SegmentKind,
    Split,
    Status,
)

LOG = logging.getLogger("tristream.assembler")


@dataclass(frozen=True, slots=True, kw_only=True)
class JoinedRollout:
    """What is kept of a rollout: what the learner trains and what judging needs, without the texts."""

    training: TrainingRollout
    has_failed: bool
    """Whether its generation ended in an error, or its numbers are none that can be trained."""
    is_judged: bool
    """Whether verifiers judge it: something was sampled."""
    oldest_version: int


@dataclass(frozen=True, slots=True)
class JoinedScore:
    """What is kept of a reward."""

    status: Status
    components: Mapping[str, float | None]
    """Values by name; None where the verifier abstains, and nothing at all where there is no score."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptFact:
    """A group was dispatched."""

    group: Group
    definition: RewardSpec
    digest: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutFact:
    """A rollout was generated."""

    group: Group
    digest: str
    """Digest of the prompt that it answers; empty if it does not say."""
    definition: RewardSpec | None
    """Its definition of reward; None where the digest says that it is the prompt's."""
    rollout: JoinedRollout


@dataclass(frozen=True, slots=True, kw_only=True)
class RewardFact:
    """A rollout was judged."""

    group: Group
    index: int
    term_id: str
    version: str
    score: JoinedScore


@dataclass(frozen=True, slots=True, kw_only=True)
class OutcomeFact:
    """A group has its outcome on the log."""

    group: Group
    fate: Fate
    step: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StatusFact:
    """A process told its status."""

    run: str
    part: Part
    instance: str
    epoch: int
    claimed_epoch: int
    created_ns: int


Fact = PromptFact | RolloutFact | RewardFact | OutcomeFact
"""What is known of a group."""


def join_rollout(
    *, group: Group, index: int, segments: tuple[Segment, ...], temperature: float, finish_reason: FinishReason
) -> JoinedRollout:
    """Keep of a rollout what is needed."""
    sampled = [segment for segment in segments if segment.kind is SegmentKind.SAMPLED and segment.tokens.data]
    versions = [span.version for segment in sampled for span in segment.version_spans]
    has_failed = finish_reason is FinishReason.ERROR
    can_train = group.split is Split.TRAIN
    defect = _find_defect(sampled, versions, temperature) if can_train and not has_failed else None
    if defect is not None:
        LOG.warning("rollout %d of group %s cannot be trained: %s", index, group.id, defect)
    return JoinedRollout(
        training=TrainingRollout(
            index=index,
            segments=segments,
            temperature=temperature,
            is_truncated=finish_reason is FinishReason.LENGTH,
        ),
        has_failed=has_failed or defect is not None,
        is_judged=bool(sampled),
        oldest_version=min(versions, default=-1),
    )


def join_score(status: Status, components: Mapping[str, float], abstained: Sequence[str]) -> JoinedScore:
    """Keep of a reward what is needed; after a timeout its zeros count, if it has any."""
    if status not in (Status.SCORED, Status.TIMEOUT):
        return JoinedScore(status, {})
    return JoinedScore(status, {**components, **dict.fromkeys(abstained)})


def _find_defect(sampled: Sequence[Segment], versions: Sequence[int], temperature: float) -> str | None:
    """Why a rollout's numbers cannot be trained, if they cannot."""
    if not 0 < temperature < math.inf:
        return f"its temperature is {temperature}"
    if not all(segment.version_spans for segment in sampled):
        return "it does not say which policy version sampled it"
    if versions and min(versions) < 0:
        return "it names a negative policy version"
    return None


def prompt_fact(prompt: Prompt) -> PromptFact:
    """What is kept of a prompt."""
    return PromptFact(group=prompt.group, definition=prompt.reward, digest=prompt.digest)


def rollout_fact(rollout: Rollout) -> RolloutFact:
    """What is kept of a rollout."""
    joined = join_rollout(
        group=rollout.group,
        index=rollout.index,
        segments=rollout.segments,
        temperature=rollout.temperature,
        finish_reason=rollout.finish_reason,
    )
    definition = None if rollout.prompt_digest else rollout.reward
    return RolloutFact(group=rollout.group, digest=rollout.prompt_digest, definition=definition, rollout=joined)


def reward_fact(reward: Reward) -> RewardFact:
    """What is kept of a reward."""
    return RewardFact(
        group=reward.group,
        index=reward.index,
        term_id=reward.term_id,
        version=reward.version,
        score=join_score(reward.status, reward.components, reward.abstained),
    )


def outcome_fact(outcome: Outcome) -> OutcomeFact:
    """What is kept of an outcome."""
    return OutcomeFact(group=outcome.group, fate=outcome.fate, step=outcome.step)

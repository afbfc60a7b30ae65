"""Batching: scored groups become the deterministic batch of a step, sharded over ranks.

A batch is built once and kept until a durable checkpoint covers it, so that a learner that asks again
gets the same shards. Lower group numbers go first, so that slow groups are not overtaken for ever.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from tristream.assembler.judge import ScoredGroup
from tristream.wire.batches import Batch, TrainingGroup, TrainingRollout
from tristream.wire.ledger import PartitionOffset


@dataclass(frozen=True, slots=True, kw_only=True)
class BuiltBatch:
    """The batch of one step over all ranks."""

    step: int
    groups: tuple[ScoredGroup, ...]
    dropped: tuple[int, ...]
    offsets: tuple[PartitionOffset, ...]

    @property
    def trained(self) -> tuple[int, ...]:
        """Numbers of its groups, ascending."""
        return tuple(scored.group.number for scored in self.groups)


def age_in_versions(step: int, oldest_version: int) -> int:
    """Age of a rollout in the batch of ``step``, which trains version ``step - 1``."""
    return max(0, step - 1 - oldest_version)


def split_stale(
    groups: Sequence[ScoredGroup], step: int, max_staleness: int
) -> tuple[list[ScoredGroup], list[ScoredGroup]]:
    """Split groups into those young enough for ``step`` and those too old."""
    fresh: list[ScoredGroup] = []
    stale: list[ScoredGroup] = []
    for scored in groups:
        is_fresh = age_in_versions(step, scored.oldest_version) <= max_staleness
        (fresh if is_fresh else stale).append(scored)
    return fresh, stale


def shard(batch: BuiltBatch, rank: int, world_size: int, micro_batch_tokens: int) -> Batch:
    """The part of a batch that one rank trains; all ranks get the same number of micro-batches."""
    shards = _balance(batch.groups, world_size)
    most_tokens = max(sum(scored.num_tokens for scored in groups) for groups in shards)
    rollouts = [outcome for scored in batch.groups for outcome in scored.outcomes if outcome.valid]
    return Batch(
        step=batch.step,
        rank=rank,
        groups=tuple(_training_group(scored, batch.step) for scored in shards[rank]),
        num_global_tokens=sum(_num_completion_tokens(scored) for scored in batch.groups),
        num_global_rollouts=len(rollouts),
        dropped=batch.dropped,
        trained=batch.trained,
        offsets=batch.offsets,
        num_micro_batches=max(1, math.ceil(most_tokens / micro_batch_tokens)),
    )


def _balance(groups: Sequence[ScoredGroup], world_size: int) -> list[list[ScoredGroup]]:
    """Give each group to the rank with the fewest tokens, largest groups first."""
    shards: list[list[ScoredGroup]] = [[] for _ in range(world_size)]
    loads = [0] * world_size
    for scored in sorted(groups, key=lambda s: (-s.num_tokens, s.group.number)):
        rank = loads.index(min(loads))
        shards[rank].append(scored)
        loads[rank] += scored.num_tokens
    return [sorted(groups_of_rank, key=lambda s: s.group.number) for groups_of_rank in shards]


def _num_completion_tokens(scored: ScoredGroup) -> int:
    pairs = zip(scored.rollouts, scored.outcomes, strict=True)
    return sum(len(rollout.completion_tokens) for rollout, outcome in pairs if outcome.valid)


def _training_group(scored: ScoredGroup, step: int) -> TrainingGroup:
    pairs = zip(scored.rollouts, scored.outcomes, strict=True)
    return TrainingGroup(
        group=scored.group,
        images=scored.images,
        rollouts=tuple(
            TrainingRollout(
                group_number=scored.group.number,
                index=rollout.index,
                prompt_tokens=rollout.prompt_tokens,
                completion_tokens=rollout.completion_tokens,
                logprobs=rollout.logprobs,
                reward=outcome.reward,
                advantage=outcome.advantage,
                temperature=rollout.temperature,
                age=age_in_versions(step, rollout.oldest_version),
            )
            for rollout, outcome in pairs
            if outcome.valid
        ),
        outcomes=scored.outcomes,
        oldest_version=scored.oldest_version,
    )

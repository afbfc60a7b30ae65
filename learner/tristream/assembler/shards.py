"""Batching: scored groups become the deterministic batch of a step, sharded over ranks.

A batch is built once and kept until a durable checkpoint covers it, so that a learner that asks again
gets the same shards. Lower group numbers go first, so that slow groups are not overtaken for ever.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from tristream.assembler.judge import ScoredGroup, age_in_versions
from tristream.wire.batches import Batch, TrainingGroup
from tristream.wire.events import LogPosition, Outcome


@dataclass(frozen=True, slots=True, kw_only=True)
class BuiltBatch:
    """The batch of one step over all ranks."""

    step: int
    world_size: int
    """Number of ranks that share it."""
    groups: tuple[ScoredGroup, ...]
    """Group numbers ascend."""
    outcomes: tuple[Outcome, ...]
    """Outcome of each group."""
    dropped: tuple[int, ...]
    """Numbers of the groups dropped since the batch before; they ascend."""
    position: LogPosition
    """Where reading must start once this batch is settled."""


def split_stale(
    groups: Iterable[ScoredGroup], step: int, max_staleness: int
) -> tuple[list[ScoredGroup], list[ScoredGroup]]:
    """Split groups into those young enough for ``step`` and those too old."""
    fresh: list[ScoredGroup] = []
    stale: list[ScoredGroup] = []
    for scored in groups:
        is_fresh = age_in_versions(step, scored.oldest_version) <= max_staleness
        (fresh if is_fresh else stale).append(scored)
    return fresh, stale


def shard(batch: BuiltBatch, rank: int, micro_batch_tokens: int) -> Batch:
    """The part of a batch that one rank trains; all ranks get the same number of micro-batches.

    Raises:
        ValueError: there is no such rank.
    """
    if not 0 <= rank < batch.world_size:
        raise ValueError(f"there is no rank {rank} among {batch.world_size}")
    shards = _balance(batch.groups, batch.world_size)
    most_tokens = max(sum(scored.num_tokens for scored in groups) for groups in shards)
    return Batch(
        step=batch.step,
        rank=rank,
        groups=tuple(TrainingGroup(group=scored.group, rollouts=scored.rollouts) for scored in shards[rank]),
        outcomes=batch.outcomes,
        num_global_tokens=sum(scored.num_sampled_tokens for scored in batch.groups),
        num_global_rollouts=sum(len(scored.rollouts) for scored in batch.groups),
        dropped=batch.dropped,
        position=batch.position,
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

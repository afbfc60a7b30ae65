"""Batching: scored groups become the deterministic batch of a step, sharded over ranks.

A batch is built once and kept until a durable checkpoint covers it, so that a learner that asks again
gets the same shards. Lower group numbers go first, so that slow groups are not overtaken for ever.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from tristream.assembler.judge import ScoredGroup, age_in_versions
from tristream.wire.batches import Batch, TrainingGroup, TrainingRollout
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


def shard(batch: BuiltBatch, rank: int) -> Batch:
    """The part of a batch that one rank trains; a rank has no groups where there are more ranks than groups.

    Raises:
        ValueError: there is no such rank.
    """
    if not 0 <= rank < batch.world_size:
        raise ValueError(f"there is no rank {rank} among {batch.world_size}")
    shards = _balance(batch.groups, batch.world_size)
    return Batch(
        step=batch.step,
        rank=rank,
        groups=tuple(TrainingGroup(group=scored.group, rollouts=scored.rollouts) for scored in shards[rank]),
        outcomes=batch.outcomes,
        num_global_tokens=sum(scored.num_sampled_tokens for scored in batch.groups),
        num_global_rollouts=sum(len(scored.rollouts) for scored in batch.groups),
        dropped=batch.dropped,
        position=batch.position,
    )


def num_packed_tokens(rollouts: Iterable[TrainingRollout]) -> int:
    """About how many tokens the learner computes for the rollouts of a group: each given beginning counts once."""
    beginnings: set[tuple[bytes, tuple[str, ...]]] = set()
    num_tokens = 0
    for rollout in rollouts:
        first = rollout.segments[0]
        beginning = (first.tokens.data, tuple(image.sha256 for image in first.images))
        is_shared = not first.is_sampled and beginning in beginnings
        beginnings.add(beginning)
        num_tokens += rollout.num_tokens - len(first.tokens) * is_shared
    return num_tokens


def _balance(groups: Sequence[ScoredGroup], world_size: int) -> list[list[ScoredGroup]]:
    """Give each group to the rank with the fewest tokens to compute, largest groups first."""
    shards: list[list[ScoredGroup]] = [[] for _ in range(world_size)]
    loads = [0] * world_size
    costs = {scored.group.number: num_packed_tokens(scored.rollouts) for scored in groups}
    for scored in sorted(groups, key=lambda s: (-costs[s.group.number], s.group.number)):
        rank = loads.index(min(loads))
        shards[rank].append(scored)
        loads[rank] += costs[scored.group.number]
    return [sorted(groups_of_rank, key=lambda s: s.group.number) for groups_of_rank in shards]

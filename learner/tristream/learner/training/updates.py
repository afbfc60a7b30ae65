"""The updates of one batch: which groups each takes, what is computed before the first, and what all of them did.

A batch is split by group numbers alone, so that any number of ranks makes the same updates.
"""

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from tristream.learner.algorithms.protocol import Algorithm
from tristream.learner.training.deepspeed_engine import TrainingEngine
from tristream.learner.training.packing import MicroBatch
from tristream.learner.training.reference_policy import ReferencePolicy
from tristream.learner.training.sequences import RolloutKey
from tristream.learner.training.step_metrics import SKIPPED, SUMS
from tristream.learner.training.train_step import BatchSize, StepResult, train_step
from tristream.wire.batches import TrainingGroup

ADDED_UP = frozenset({*SUMS, "skipped_updates"}) - {"loss"}
"""Metrics that add up over the updates of a batch; the others are means over them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What an algorithm must know of a rollout of any rank."""

    num_tokens: int
    """Sampled tokens."""
    is_truncated: bool
    """Whether it was cut off."""


Answers = Mapping[RolloutKey, Answer]
"""All rollouts of a batch, over all ranks."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Update:
    """One optimizer step, as this rank takes part in it."""

    micro_batches: Sequence[MicroBatch]
    size: BatchSize
    """Over all ranks."""
    left_out: frozenset[RolloutKey] = frozenset()
    """Rollouts that its loss leaves out, over all ranks."""


def answers_of(groups: Iterable[TrainingGroup]) -> dict[RolloutKey, Answer]:
    """What is known of the rollouts of some groups."""
    return {
        RolloutKey(group_number=group.group.number, index=rollout.index): Answer(
            num_tokens=rollout.num_sampled_tokens, is_truncated=rollout.is_truncated
        )
        for group in groups
        for rollout in group.rollouts
    }


def split_numbers(numbers: Sequence[int], num_updates: int) -> list[frozenset[int]]:
    """Deal the group numbers of a batch out to its updates; there are fewer where there are fewer groups."""
    parts = (frozenset(numbers[first::num_updates]) for first in range(num_updates))
    return [part for part in parts if part]


def left_out_of(answers: Answers, algorithm: Algorithm) -> frozenset[RolloutKey]:
    """Rollouts that the loss leaves out."""
    if not algorithm.masks_truncated:
        return frozenset()
    return frozenset(key for key, answer in answers.items() if answer.is_truncated)


def size_of(answers: Answers, numbers: frozenset[int], left_out: frozenset[RolloutKey]) -> BatchSize:
    """Size of the update that takes these groups."""
    lengths = {key: answer.num_tokens for key, answer in answers.items() if key.group_number in numbers}
    return BatchSize(
        num_tokens=sum(lengths.values()),
        num_rollouts=len(lengths),
        num_tokens_left_out=sum(length for key, length in lengths.items() if key in left_out),
        num_rollouts_left_out=len(left_out & lengths.keys()),
    )


def run_updates(
    engine: TrainingEngine,
    updates: Sequence[Update],
    algorithm: Algorithm,
    reference: ReferencePolicy | None,
    *,
    step: int,
) -> StepResult:
    """Make the updates of a batch, in order and once an epoch; all ranks call it together.

    Log-probabilities under the reference, and under the policy before the first update, are computed once.

    Args:
        engine: holds the policy and its optimizer.
        updates: at least one.
        algorithm: gives the loss, and says what is computed before the first update.
        reference: what the policy should stay near, where the algorithm needs it.
        step: number of the step, from 1, for the learning rate.
    """
    # The only update begins from the policy that the old one is: its own log-probabilities serve.
    recomputes = algorithm.recomputes_proximal and len(updates) * algorithm.epochs > 1
    started = time.monotonic()
    prepared = [
        replace(
            update,
            micro_batches=[_prepare(engine, reference, one, recomputes=recomputes) for one in update.micro_batches],
        )
        for update in updates
    ]
    prepare_seconds = time.monotonic() - started
    results = [
        train_step(engine, update.micro_batches, algorithm, step=step, size=update.size, left_out=update.left_out)
        for _epoch in range(algorithm.epochs)
        for update in prepared
    ]
    merged = merge_results(results, [update.size.num_tokens for update in updates] * algorithm.epochs, len(updates))
    return replace(merged, forward_backward_seconds=merged.forward_backward_seconds + prepare_seconds)


def merge_results(results: Sequence[StepResult], num_tokens: Sequence[int], num_updates: int) -> StepResult:
    """What several updates did, as that of one step.

    Counts and seconds add up; other metrics are means, weighted by tokens; a reason to skip is 1 if it was one once.

    Args:
        results: of all updates in their order, one epoch after the other.
        num_tokens: sampled tokens of each.
        num_updates: updates an epoch; statistics of rollouts are those of the first epoch.
    """
    if len(results) == 1:
        return results[0]
    weights = torch.tensor(num_tokens, dtype=torch.float64).clamp(min=1)
    weights /= weights.sum()

    def merged(name: str) -> float:
        values = torch.tensor([result.metrics[name] for result in results], dtype=torch.float64)
        if name in ADDED_UP:
            return float(values.sum())
        return float(values.max() if name.startswith(SKIPPED) else (values * weights).sum())

    def merged_norm(layer: str) -> float:
        values: Tensor = torch.tensor([result.layer_grad_norms[layer] for result in results], dtype=torch.float64)
        return float((values * weights).sum())

    return StepResult(
        metrics={name: merged(name) for name in results[0].metrics},
        layer_grad_norms={layer: merged_norm(layer) for layer in results[0].layer_grad_norms},
        statistics=torch.cat([result.statistics for result in results[:num_updates]]),
        forward_backward_seconds=sum(result.forward_backward_seconds for result in results),
        optimizer_seconds=sum(result.optimizer_seconds for result in results),
    )


@torch.no_grad()
def _prepare(
    engine: TrainingEngine, reference: ReferencePolicy | None, micro_batch: MicroBatch, *, recomputes: bool
) -> MicroBatch:
    if reference is None and not recomputes:
        return micro_batch
    on_device = micro_batch.to(engine.device)
    of_reference = None if reference is None else reference.logprobs(on_device).cpu()
    of_policy = engine.policy(on_device)[0].cpu() if recomputes else None
    return replace(micro_batch, reference_logprobs=of_reference, proximal_logprobs=of_policy)

"""One optimizer step: forward and backward over micro-batches, then the update, with its measurements.

Callable without bus, gRPC or store; benchmarks and tests use it as the learner does.
"""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tristream.learner.algorithms.protocol import Algorithm, LossInputs
from tristream.learner.training.deepspeed_engine import TrainingEngine
from tristream.learner.training.distributed import sum_over_ranks
from tristream.learner.training.packing import MicroBatch
from tristream.learner.training.sequences import RolloutKey
from tristream.learner.training.step_metrics import (
    STATISTICS,
    TOTALS,
    metrics_of,
    skip_reasons,
    statistics_of,
    totals_of,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class StepResult:
    """What one optimizer step did; metrics are global, statistics those of this rank's rollouts."""

    metrics: dict[str, float]
    layer_grad_norms: dict[str, float]
    statistics: Tensor
    """Shape [rollouts, ``len(STATISTICS)``], float64."""
    forward_backward_seconds: float
    optimizer_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchSize:
    """Size of a whole batch over all ranks, by which losses are divided."""

    num_tokens: int
    """Sampled tokens."""
    num_rollouts: int
    num_tokens_left_out: int = 0
    """Those of rollouts that the loss leaves out, by whose number it is not divided."""
    num_rollouts_left_out: int = 0


def train_step(
    engine: TrainingEngine,
    micro_batches: Sequence[MicroBatch],
    algorithm: Algorithm,
    *,
    step: int,
    size: BatchSize,
    left_out: frozenset[RolloutKey] = frozenset(),
) -> StepResult:
    """Update the policy once on the micro-batches of this rank.

    An update is left out if its loss, its gradient norm, or a log-probability or advantage of a trained token is not
    finite: ``skipped_updates`` says so, and ``skipped_REASON`` says why. Tokens are looked at since clamps and masks of
    a loss can hide what is not a number.

    Args:
        engine: holds the policy and its optimizer.
        micro_batches: those of this rank; all ranks have equally many.
        algorithm: gives the loss of each micro-batch.
        step: number of the step, from 1, for the learning rate.
        size: size of the whole batch over all ranks.
        left_out: rollouts that the loss leaves out.
    """
    started = time.monotonic()
    totals = torch.zeros(len(TOTALS), dtype=torch.float64)
    statistics = [torch.zeros(0, len(STATISTICS), dtype=torch.float64)]
    for number, micro_batch in enumerate(micro_batches, start=1):
        on_device = micro_batch.to(engine.device)
        logprobs, entropies = engine.forward(on_device)
        loss = algorithm.loss(make_loss_inputs(on_device, logprobs, size, left_out))
        engine.backward(loss.loss, is_last=number == len(micro_batches))
        if not micro_batch.is_filler:
            totals += totals_of(on_device, loss, logprobs, entropies)
            statistics.append(statistics_of(on_device, loss, logprobs, entropies))
    norms = engine.layer_grad_norms()
    grad_norm = math.sqrt(sum(norm**2 for norm in norms.values()))
    metrics = metrics_of(sum_over_ranks(totals), size.num_tokens)
    skipped = skip_reasons(metrics, grad_norm)
    trained = time.monotonic()
    learning_rate = engine.learning_rate_at(step)
    engine.step(learning_rate, skip=any(skipped.values()))
    metrics |= {
        "grad_norm": grad_norm,
        "learning_rate": learning_rate,
        "skipped_updates": float(any(skipped.values())),
        **skipped,
    }
    return StepResult(
        metrics=metrics,
        layer_grad_norms=norms,
        statistics=torch.cat(statistics),
        forward_backward_seconds=trained - started,
        optimizer_seconds=time.monotonic() - trained,
    )


def make_loss_inputs(
    batch: MicroBatch, logprobs: Tensor, size: BatchSize, left_out: frozenset[RolloutKey] = frozenset()
) -> LossInputs:
    """What the algorithm is given; a token that counts for nothing has ratio 1 and no gradient.

    Those are tokens that the policy cannot sample, and all tokens of rollouts that are left out.
    """
    counts = batch.is_trained
    if left_out:
        is_in = torch.tensor([key not in left_out for key in batch.rollouts], device=counts.device)
        counts = counts & is_in.repeat_interleave(batch.rollout_lengths)

    def counted(values: Tensor) -> Tensor:
        return torch.where(counts, values, 0.0)

    return LossInputs(
        logprobs=counted(logprobs),
        old_logprobs=counted(batch.old_logprobs),
        advantages=torch.zeros_like(batch.advantages) if batch.is_filler else counted(batch.advantages),
        rollout_lengths=batch.rollout_lengths,
        num_global_tokens=size.num_tokens - size.num_tokens_left_out,
        num_global_rollouts=size.num_rollouts - size.num_rollouts_left_out,
        reference_logprobs=None if batch.reference_logprobs is None else counted(batch.reference_logprobs),
        proximal_logprobs=None if batch.proximal_logprobs is None else counted(batch.proximal_logprobs),
    )

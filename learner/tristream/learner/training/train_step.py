"""One optimizer step: forward and backward over micro-batches, then the update, with its measurements.

Callable without bus, gRPC or store; benchmarks and tests use it as the learner does.
"""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tristream.config.learner import LearnerSection
from tristream.learner.algorithms.protocol import Algorithm, LossInputs
from tristream.learner.training.deepspeed_engine import TrainingEngine
from tristream.learner.training.distributed import sum_over_ranks
from tristream.learner.training.packing import MicroBatch
from tristream.learner.training.step_metrics import STATISTICS, TOTALS, metrics_of, statistics_of, totals_of


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


def learning_rate_at(step: int, settings: LearnerSection) -> float:
    """Learning rate of a step, counted from 1: linear warm-up, then constant."""
    return settings.learning_rate * min(1.0, step / (settings.warmup_steps + 1))


def train_step(
    engine: TrainingEngine,
    micro_batches: Sequence[MicroBatch],
    algorithm: Algorithm,
    *,
    step: int,
    size: BatchSize,
    settings: LearnerSection,
) -> StepResult:
    """Update the policy once on the micro-batches of this rank.

    An update whose loss or gradient norm is not finite is left out, and ``skipped_updates`` says so. The loss alone
    shows log-probabilities of the sampling policy that are not numbers: clamping takes their gradient away.

    Args:
        engine: holds the policy and its optimizer.
        micro_batches: those of this rank; all ranks have equally many.
        algorithm: gives the loss of each micro-batch.
        step: number of the step, from 1, for the learning rate.
        size: size of the whole batch over all ranks.
        settings: how the policy is updated.
    """
    started = time.monotonic()
    totals = torch.zeros(len(TOTALS), dtype=torch.float64)
    statistics = [torch.zeros(0, len(STATISTICS), dtype=torch.float64)]
    for number, micro_batch in enumerate(micro_batches, start=1):
        on_device = micro_batch.to(engine.device)
        logprobs, entropies = engine.forward(on_device)
        loss = algorithm.loss(make_loss_inputs(on_device, logprobs, size))
        engine.backward(loss.loss, is_last=number == len(micro_batches))
        if not micro_batch.is_filler:
            totals += totals_of(on_device, loss, logprobs, entropies)
            statistics.append(statistics_of(on_device, loss, logprobs, entropies))
    norms = engine.layer_grad_norms()
    grad_norm = math.sqrt(sum(norm**2 for norm in norms.values()))
    metrics = metrics_of(sum_over_ranks(totals), size.num_tokens)
    is_finite = math.isfinite(grad_norm) and math.isfinite(metrics["loss"])
    trained = time.monotonic()
    learning_rate = learning_rate_at(step, settings)
    engine.step(learning_rate, skip=not is_finite)
    metrics |= {
        "grad_norm": grad_norm,
        "learning_rate": learning_rate,
        "skipped_updates": 0.0 if is_finite else 1.0,
    }
    return StepResult(
        metrics=metrics,
        layer_grad_norms=norms,
        statistics=torch.cat(statistics),
        forward_backward_seconds=trained - started,
        optimizer_seconds=time.monotonic() - trained,
    )


def make_loss_inputs(batch: MicroBatch, logprobs: Tensor, size: BatchSize) -> LossInputs:
    """What the algorithm is given; a token that the policy cannot sample has ratio 1 and no gradient."""

    def trained(values: Tensor | None) -> Tensor | None:
        return None if values is None else torch.where(batch.is_trained, values, 0.0)

    counted = batch.is_trained & (not batch.is_filler)
    return LossInputs(
        logprobs=torch.where(batch.is_trained, logprobs, 0.0),
        old_logprobs=torch.where(batch.is_trained, batch.old_logprobs, 0.0),
        advantages=torch.where(counted, batch.advantages, 0.0),
        rollout_lengths=batch.rollout_lengths,
        num_global_tokens=size.num_tokens,
        num_global_rollouts=size.num_rollouts,
        reference_logprobs=trained(batch.reference_logprobs),
        proximal_logprobs=trained(batch.proximal_logprobs),
    )

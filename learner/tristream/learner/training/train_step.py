"""One optimizer step: forward and backward over micro-batches, then the update, with its measurements.

Callable without bus, gRPC or store; benchmarks and tests use it as the learner does.
"""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tristream.config.run_file import LearnerSection
from tristream.learner.algorithms.grpo import PolicyLoss, clipped_policy_loss
from tristream.learner.training.deepspeed_engine import PolicyEngine
from tristream.learner.training.distributed import sum_over_ranks
from tristream.learner.training.packing import MicroBatch
from tristream.wire.events import RolloutStatistics


@dataclass(frozen=True, slots=True, kw_only=True)
class StepResult:
    """What one optimizer step did; metrics are global, statistics those of this rank's rollouts."""

    metrics: dict[str, float]
    layer_grad_norms: dict[str, float]
    statistics: tuple[RolloutStatistics, ...]
    forward_backward_seconds: float
    optimizer_seconds: float


def learning_rate_at(step: int, settings: LearnerSection) -> float:
    """Learning rate of a step, counted from 1: linear warm-up, then constant."""
    return settings.learning_rate * min(1.0, step / (settings.warmup_steps + 1))


def train_step(
    engine: PolicyEngine,
    micro_batches: Sequence[MicroBatch],
    *,
    step: int,
    num_global_tokens: int,
    settings: LearnerSection,
) -> StepResult:
    """Update the policy once on the micro-batches of this rank.

    An update whose gradient norm is not finite is left out, and ``skipped_updates`` says so.
    """
    started = time.monotonic()
    totals = torch.zeros(len(TOTALS), dtype=torch.float64)
    statistics: list[RolloutStatistics] = []
    for number, micro_batch in enumerate(micro_batches, start=1):
        on_device = micro_batch.to(engine.device)
        logprobs, entropies = engine.forward(on_device)
        loss = _policy_loss(on_device, logprobs, num_global_tokens, settings)
        engine.backward(loss.loss, is_last=number == len(micro_batches))
        if not micro_batch.is_filler:
            totals += _totals(on_device, loss, logprobs, entropies)
            statistics.extend(_rollout_statistics(on_device, loss, logprobs, entropies))
    norms = engine.layer_grad_norms()
    grad_norm = math.sqrt(sum(norm**2 for norm in norms.values()))
    trained = time.monotonic()
    learning_rate = learning_rate_at(step, settings)
    engine.step(learning_rate, skip=not math.isfinite(grad_norm))
    metrics = _metrics(sum_over_ranks(totals), num_global_tokens)
    metrics |= {
        "grad_norm": grad_norm,
        "learning_rate": learning_rate,
        "skipped_updates": 0.0 if math.isfinite(grad_norm) else 1.0,
    }
    return StepResult(
        metrics=metrics,
        layer_grad_norms=norms,
        statistics=tuple(statistics),
        forward_backward_seconds=trained - started,
        optimizer_seconds=time.monotonic() - trained,
    )


def _policy_loss(batch: MicroBatch, logprobs: Tensor, num_global_tokens: int, settings: LearnerSection) -> PolicyLoss:
    """The loss; a token that the policy cannot sample has ratio 1 and no gradient."""
    old = torch.where(batch.is_trained, batch.old_logprobs, 0.0)
    new = torch.where(batch.is_trained, logprobs, 0.0)
    counted = batch.is_trained & (not batch.is_filler)
    return clipped_policy_loss(
        new,
        old,
        torch.where(counted, batch.advantages, 0.0),
        num_global_tokens=num_global_tokens,
        clip_low=settings.clip_low,
        clip_high=settings.clip_high,
    )


TOTALS = ("loss", "clip_fraction", "kl_k1", "kl_k3", "entropy", "mean_logprob", "placeholder_tokens", "model_tokens")
"""Sums over tokens that are added up over micro-batches and ranks."""


def _totals(batch: MicroBatch, loss: PolicyLoss, logprobs: Tensor, entropies: Tensor) -> Tensor:
    sums = (
        loss.loss.detach(),
        loss.is_clipped.sum(),
        loss.kl_k1.sum(),
        loss.kl_k3.sum(),
        entropies.sum(),
        torch.where(batch.is_trained, logprobs.detach(), 0.0).sum(),
        (~batch.is_trained).sum(),
        torch.tensor(batch.num_tokens),
    )
    return torch.tensor([float(value) for value in sums], dtype=torch.float64)


def _metrics(totals: Tensor, num_global_tokens: int) -> dict[str, float]:
    sums = dict(zip(TOTALS, totals.tolist(), strict=True))
    whole = ("loss", "placeholder_tokens", "model_tokens")
    return {name: value if name in whole else value / num_global_tokens for name, value in sums.items()}


def _rollout_statistics(
    batch: MicroBatch, loss: PolicyLoss, logprobs: Tensor, entropies: Tensor
) -> list[RolloutStatistics]:
    lengths = [len(rollout.completion_tokens) for rollout in batch.rollouts]
    values = torch.stack(
        [torch.where(batch.is_trained, logprobs.detach(), 0.0), entropies, loss.is_clipped, loss.kl_k1]
    )
    means = [part.mean(dim=1).tolist() if part.shape[1] else [0.0] * 4 for part in torch.split(values, lengths, dim=1)]
    return [
        RolloutStatistics(
            group_number=rollout.group_number,
            index=rollout.index,
            mean_logprob=mean[0],
            mean_entropy=mean[1],
            clip_fraction=mean[2],
            mean_kl=mean[3],
        )
        for rollout, mean in zip(batch.rollouts, means, strict=True)
    ]

"""What is measured of a step: sums over tokens, which add up over micro-batches and ranks, and each rollout's own."""

import torch
from torch import Tensor

from tristream.learner.algorithms.protocol import PolicyLoss
from tristream.learner.training.packing import MicroBatch

TOTALS = ("loss", "clip_fraction", "kl_k1", "kl_k3", "entropy", "mean_logprob", "placeholder_tokens", "model_tokens")
"""Sums over tokens that are added up over micro-batches and ranks."""


def totals_of(batch: MicroBatch, loss: PolicyLoss, logprobs: Tensor, entropies: Tensor) -> Tensor:
    """The sums of one micro-batch: shape [``len(TOTALS)``], float64."""
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


def metrics_of(totals: Tensor, num_global_tokens: int) -> dict[str, float]:
    """The metrics of a step by name, from its sums over all micro-batches and ranks."""
    sums = dict(zip(TOTALS, totals.tolist(), strict=True))
    whole = ("loss", "placeholder_tokens", "model_tokens")
    return {name: value if name in whole else value / num_global_tokens for name, value in sums.items()}


STATISTICS = ("group_number", "index", "mean_logprob", "mean_entropy", "clip_fraction", "mean_kl")
"""Columns of a rollout's statistics, named as in ``RolloutStatistics``."""


def statistics_of(batch: MicroBatch, loss: PolicyLoss, logprobs: Tensor, entropies: Tensor) -> Tensor:
    """Statistics of each rollout of a micro-batch: shape [rollouts, ``len(STATISTICS)``], float64."""
    values = torch.stack(
        [torch.where(batch.is_trained, logprobs.detach(), 0.0), entropies, loss.is_clipped, loss.kl_k1]
    )
    means = [part.mean(dim=1) for part in torch.split(values, batch.rollout_lengths.tolist(), dim=1)]
    keys = [(rollout.group_number, rollout.index) for rollout in batch.rollouts]
    return torch.cat([torch.tensor(keys, dtype=torch.float64), torch.stack(means).double().cpu()], dim=1)

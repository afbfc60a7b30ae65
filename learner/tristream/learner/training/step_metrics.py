"""What is measured of a step: sums over tokens, which add up over micro-batches and ranks, and each rollout's own.

Ratios are those of the trained policy to the one that sampled, ``w_t = exp(logprobs_t - old_logprobs_t)``, whatever the
algorithm makes of them, so that they compare between algorithms. Placeholder tokens are left out of them.
"""

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from tristream.learner.algorithms.protocol import MAX_LOG_RATIO, PolicyLoss
from tristream.learner.training.packing import MicroBatch

MEANS = ("clip_fraction", "kl_k1", "kl_k3", "kl_reference", "mean_weight", "entropy", "mean_logprob")
"""Sums over tokens of which a metric is the mean."""
SUMS = ("loss", "placeholder_tokens", "model_tokens", "attended_tokens", "not_finite_tokens")
"""Those that are metrics as they are."""
RATIOS = ("ratio_tail", "weights", "squared_weights")
"""Those of which ``ratio_tail_share`` and ``effective_sample_size`` are made."""
TOTALS = (*MEANS, *SUMS, *RATIOS)
"""Sums over tokens that are added up over micro-batches and ranks."""
SKIPPED = "skipped_"
"""Begins the metrics that say why an update was left out."""
RATIO_TAIL = 2.0
"""Ratios above this, or below its inverse, are the tail."""
SKIP_REASONS = ("loss", "gradient", "logprobs")
"""What was not finite when an update was left out."""


def totals_of(batch: MicroBatch, loss: PolicyLoss, logprobs: Tensor, entropies: Tensor) -> Tensor:
    """The sums of one micro-batch: shape [``len(TOTALS)``], float64."""
    log_ratios = _log_ratios(batch, logprobs)[batch.is_trained].double()
    weights = log_ratios.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).exp()
    sums: dict[str, Tensor | int] = {
        "loss": loss.loss.detach(),
        "clip_fraction": loss.is_clipped.sum(),
        "kl_k1": loss.kl_k1.sum(),
        "kl_k3": loss.kl_k3.sum(),
        "kl_reference": loss.kl_reference.sum(),
        "mean_weight": loss.weight.sum(),
        "entropy": entropies.sum(),
        "mean_logprob": torch.where(batch.is_trained, logprobs.detach(), 0.0).sum(),
        "placeholder_tokens": (~batch.is_trained).sum(),
        "model_tokens": batch.num_tokens,
        "attended_tokens": _attended_tokens(batch),
        "not_finite_tokens": (~_are_finite(batch, logprobs)).sum(),
        "ratio_tail": ((weights > RATIO_TAIL) | (weights < 1 / RATIO_TAIL)).sum(),
        "weights": weights.sum(),
        "squared_weights": weights.square().sum(),
    }
    return torch.tensor([float(sums[name]) for name in TOTALS], dtype=torch.float64)


def metrics_of(totals: Tensor, num_global_tokens: int) -> dict[str, float]:
    """The metrics of a step by name, from its sums over all micro-batches and ranks.

    ``effective_sample_size`` is ``(sum w)^2 / (n sum w^2)`` over the n trained tokens (Kish 1965, section 11.7): 1 if
    all weights are equal, 1/n if one has all the weight. ``ratio_tail_share`` is the share of tokens whose ratio is
    above 2 or below 1/2.
    """
    sums = dict(zip(TOTALS, totals.tolist(), strict=True))
    num_tokens = max(1, num_global_tokens)
    num_trained = max(1.0, num_global_tokens - sums["placeholder_tokens"])
    squares = num_trained * sums["squared_weights"]
    return {
        **{name: sums[name] / num_tokens for name in MEANS},
        **{name: sums[name] for name in SUMS},
        "ratio_tail_share": sums["ratio_tail"] / num_trained,
        "effective_sample_size": sums["weights"] ** 2 / squares if squares else 1.0,
    }


def skip_reasons(metrics: Mapping[str, float], grad_norm: float) -> dict[str, float]:
    """Why an update must be left out: ``skipped_loss``, ``skipped_gradient`` and ``skipped_logprobs``, each 1 or 0.

    Args:
        metrics: of the step, from ``metrics_of``.
        grad_norm: norm of the gradient over all ranks.
    """
    spoilt = (not math.isfinite(metrics["loss"]), not math.isfinite(grad_norm), metrics["not_finite_tokens"] > 0)
    return {f"{SKIPPED}{name}": float(is_spoilt) for name, is_spoilt in zip(SKIP_REASONS, spoilt, strict=True)}


STATISTICS = (
    "group_number", "index", "mean_logprob", "mean_entropy", "clip_fraction", "mean_kl",
    "num_trained_tokens", "sum_of_mismatches", "max_ratio", "num_not_finite",
)  # fmt: skip
"""Columns of a rollout's statistics: first those of ``RolloutStatistics``, then those of which metrics are made:
trained tokens, the sum of their absolute log ratios, the largest ratio, and tokens with a number that is not finite."""
NUM_REPORTED = 6
"""So many of them are those of ``RolloutStatistics``."""


def statistics_of(batch: MicroBatch, loss: PolicyLoss, logprobs: Tensor, entropies: Tensor) -> Tensor:
    """Statistics of each rollout of a micro-batch: shape [rollouts, ``len(STATISTICS)``], float64.

    Means of a rollout without tokens are 0.
    """
    log_ratios = _log_ratios(batch, logprobs)
    values = torch.stack(
        [
            torch.where(batch.is_trained, logprobs.detach(), 0.0),
            entropies,
            loss.is_clipped,
            loss.kl_k1,
            batch.is_trained.float(),
            log_ratios.abs(),
            (~_are_finite(batch, logprobs)).float(),
        ]
    ).double()
    rows = []
    lengths = batch.rollout_lengths.tolist()
    for part, ratios in zip(torch.split(values, lengths, dim=1), torch.split(log_ratios, lengths), strict=True):
        sums = part.sum(dim=1)
        largest = ratios.max().clamp(max=MAX_LOG_RATIO).exp().double()[None] if len(ratios) else sums.new_ones(1)
        rows.append(torch.cat([sums[:4] / max(1, part.shape[1]), sums[4:6], largest, sums[6:]]))
    keys = [(rollout.group_number, rollout.index) for rollout in batch.rollouts]
    return torch.cat([torch.tensor(keys, dtype=torch.float64), torch.stack(rows).cpu()], dim=1)


def _log_ratios(batch: MicroBatch, logprobs: Tensor) -> Tensor:
    """Shape [targets], without gradient; 0 for tokens that are not trained."""
    return torch.where(batch.is_trained, logprobs.detach() - batch.old_logprobs, 0.0)


def _are_finite(batch: MicroBatch, logprobs: Tensor) -> Tensor:
    """Shape [targets], bool: whether a trained token's log-probabilities and its advantage are all numbers."""
    logprobs = logprobs.detach()
    others = (batch.reference_logprobs, batch.proximal_logprobs)
    numbers = (logprobs, batch.old_logprobs, batch.advantages, *(values for values in others if values is not None))
    return ~batch.is_trained | torch.stack([torch.isfinite(values) for values in numbers]).all(dim=0)


def _attended_tokens(batch: MicroBatch) -> int:
    """Pairs of tokens that attention computes: each token sees those up to its own position.

    Under M-RoPE an image advances positions by its side only, so that what comes after it counts for less.
    """
    positions = batch.positions.reshape(-1, batch.num_tokens)
    return int((positions.amax(dim=0) + 1).sum())

"""The loss of some tokens, put together from its parts."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from tristream.learner.algorithms.aggregation.sizes import Sizes
from tristream.learner.algorithms.kl.k1 import k1
from tristream.learner.algorithms.kl.k3 import k3
from tristream.learner.algorithms.losses.token_losses import Bounds, TokenLosses
from tristream.learner.algorithms.protocol import MAX_LOG_RATIO, LossInputs, PolicyLoss

OfRollouts = Callable[[Tensor, Tensor], Tensor]
"""From values of tokens [tokens], and the lengths of rollouts [rollouts], to values of tokens."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Correction:
    """How the loss is weighted for tokens that another policy sampled than the proximal one."""

    level: OfRollouts
    bound: Callable[[Tensor, float, float], Tensor]
    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class LossParts:
    """What a loss is made of."""

    ratio: OfRollouts
    token_losses: Callable[[Tensor, Tensor, Tensor, Bounds], TokenLosses]
    bounds: Bounds
    aggregate: Callable[[Tensor, Sizes], Tensor]
    max_tokens: int
    recomputes_proximal: bool
    correction: Correction | None
    kl: Callable[[Tensor], Tensor]
    kl_coefficient: float


def composed_loss(inputs: LossInputs, *, parts: LossParts) -> PolicyLoss:
    """The loss of some rollouts of an update, ``aggregate(w_t * l_t(r_t, A_t) + kl_coefficient * kl_t)``.

    ``r`` is the ratio of the trained policy to the old one, which is the one that sampled, or the proximal one. Then
    ``w`` may be the ratio of the proximal policy to the one that sampled, without gradient: decoupled PPO (Hilton et
    al. 2021, arXiv 2110.00641, section 3).

    Args:
        inputs: the tokens of whole rollouts.
        parts: what the loss is made of.
    """
    lengths = inputs.rollout_lengths
    proximal = inputs.logprobs.detach() if inputs.proximal_logprobs is None else inputs.proximal_logprobs
    old = proximal if parts.recomputes_proximal else inputs.old_logprobs
    ratio = _exp(parts.ratio(_clamped(inputs.logprobs - old), lengths))
    tokens = parts.token_losses(ratio, inputs.logprobs, inputs.advantages, parts.bounds)
    weight = importance_weights(proximal, inputs.old_logprobs, lengths, parts.correction)
    kl = _kl_to_reference(inputs, parts)
    sizes = Sizes(
        rollout_lengths=lengths,
        num_global_tokens=inputs.num_global_tokens,
        num_global_rollouts=inputs.num_global_rollouts,
        max_tokens=parts.max_tokens,
    )
    moved = _clamped(inputs.logprobs.detach() - inputs.old_logprobs)
    return PolicyLoss(
        loss=parts.aggregate(weight * tokens.losses + parts.kl_coefficient * kl, sizes),
        is_clipped=tokens.is_clipped.to(ratio.dtype),
        kl_k1=k1(moved),
        kl_k3=k3(moved),
        ratio=ratio.detach(),
        weight=weight,
        kl_reference=kl.detach(),
    )


@torch.no_grad()
def importance_weights(proximal: Tensor, sampled: Tensor, lengths: Tensor, correction: Correction | None) -> Tensor:
    """Weights of tokens, shape [tokens]; 1 without a correction.

    Args:
        proximal: shape [tokens], log-probabilities under the policy before the first update.
        sampled: shape [tokens], those under the policy that sampled.
        lengths: shape [rollouts], tokens of each.
        correction: which weights.
    """
    if correction is None:
        return torch.ones_like(sampled)
    weights = _exp(correction.level(_clamped(proximal - sampled), lengths))
    return correction.bound(weights, correction.low, correction.high)


def _kl_to_reference(inputs: LossInputs, parts: LossParts) -> Tensor:
    if not parts.kl_coefficient:
        return torch.zeros_like(inputs.old_logprobs)
    if inputs.reference_logprobs is None:
        raise ValueError("a loss with a KL term needs log-probabilities under a reference policy")
    return parts.kl(_clamped(inputs.reference_logprobs - inputs.logprobs))


def _clamped(log_ratio: Tensor) -> Tensor:
    return log_ratio.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)


def _exp(log_ratio: Tensor) -> Tensor:
    return _clamped(log_ratio).exp()

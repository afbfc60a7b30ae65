"""The GRPO objective as pure functions of tensors: no model, no input or output, no state.

One optimizer step is taken per batch, so the old policy of the ratio is the behaviour policy that sampled
the tokens. There is no KL term. Every function works on flat vectors of completion tokens.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

MAX_LOG_RATIO = 20.0
"""Log ratios are clamped to this on both sides, so that exp stays finite in float32."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyLoss:
    """The loss of some tokens of a batch, and what each token contributes to the metrics."""

    loss: Tensor
    """Scalar; the losses of disjoint parts of a batch add up to the loss of the batch."""
    is_clipped: Tensor
    """Shape [tokens], float: 1 where the clip range took the gradient away."""
    kl_k1: Tensor
    """Shape [tokens]: log(old / new), the unbiased estimate of KL(old || new), in nats."""
    kl_k3: Tensor
    """Shape [tokens]: ratio - 1 - log(ratio), the non-negative estimate of KL(old || new), in nats."""


def clipped_policy_loss(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    *,
    num_global_tokens: int,
    clip_low: float = 0.2,
    clip_high: float = 0.28,
) -> PolicyLoss:
    """Token-mean clipped policy loss with an asymmetric clip range.

    With the ratio ``r_t = exp(logprobs_t - old_logprobs_t)`` and the advantage ``A_t`` of the token's rollout::

        loss = 1 / num_global_tokens * sum_t -min(r_t * A_t, clip(r_t, 1 - clip_low, 1 + clip_high) * A_t)

    The ratio clip is PPO's (arXiv 1707.06347, eq. 7), the group-relative advantage GRPO's (arXiv 2402.03300),
    "clip-higher" and the mean over all tokens of the batch DAPO's (arXiv 2503.14476, eq. 8).

    Args:
        logprobs: shape [tokens], log-probabilities under the policy being trained; carries the gradient.
        old_logprobs: shape [tokens], log-probabilities under the policy that sampled the tokens.
        advantages: shape [tokens], the advantage of each token's rollout.
        num_global_tokens: tokens of the whole batch over all ranks and micro-batches, so that any split of
            the batch gives the same sum.
        clip_low: the ratio is clipped below ``1 - clip_low``.
        clip_high: the ratio is clipped above ``1 + clip_high``.
    """
    log_ratio = (logprobs - old_logprobs).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)
    ratio = log_ratio.exp()
    clipped_ratio = ratio.clamp(1 - clip_low, 1 + clip_high)
    token_losses = -torch.minimum(ratio * advantages, clipped_ratio * advantages)
    loss = token_losses.sum() / num_global_tokens
    with torch.no_grad():
        is_above = (ratio > 1 + clip_high) & (advantages > 0)
        is_below = (ratio < 1 - clip_low) & (advantages < 0)
        return PolicyLoss(
            loss=loss,
            is_clipped=(is_above | is_below).to(ratio.dtype),
            kl_k1=-log_ratio.detach(),
            kl_k3=(ratio - 1 - log_ratio).detach(),
        )

"""The clipped policy loss, with a range that may be wider above, dual clip, and a bound on what the range leaves."""

import torch
from torch import Tensor

from tristream.learner.algorithms.losses.token_losses import Bounds, TokenLosses


def clipped_losses(ratio: Tensor, _logprobs: Tensor, advantages: Tensor, bounds: Bounds) -> TokenLosses:
    """Losses of tokens with ratio ``r`` and advantage ``A``.

    They are::

        l = -min(min(r, ratio_bound) * A, clip(r, 1 - clip_low, 1 + clip_high) * A)
        l = min(l, dual_clip * |A|)  where A < 0

    The clip is PPO's (Schulman et al. 2017, arXiv 1707.06347, equation 7), the range that is wider above is DAPO's
    clip-higher (arXiv 2503.14476, equation 8). Without more, ``-r * A`` of a negative advantage has no bound: dual clip
    (Ye et al. 2019, arXiv 1912.09729) bounds the loss, the two-sided bound (INTELLECT-2, 2025, arXiv
    2505.07291; ``delta`` in TRL) the ratio.

    Args:
        ratio: shape [tokens], with gradient.
        _logprobs: shape [tokens], as all losses are given them.
        advantages: shape [tokens].
        bounds: the clip range and the other bounds.
    """
    bounded = ratio.clamp(max=bounds.ratio_bound) if bounds.ratio_bound else ratio
    clipped = ratio.clamp(1 - bounds.clip_low, 1 + bounds.clip_high)
    losses = -torch.minimum(bounded * advantages, clipped * advantages)
    is_negative = advantages < 0
    if bounds.dual_clip:
        losses = torch.where(is_negative, torch.minimum(losses, -bounds.dual_clip * advantages), losses)
    is_above = (ratio > 1 + bounds.clip_high) & (advantages > 0)
    is_below = (ratio < 1 - bounds.clip_low) & is_negative
    upper = [bound for bound in (bounds.dual_clip, bounds.ratio_bound) if bound]
    is_far = (ratio > min(upper)) & is_negative if upper else torch.zeros_like(is_above)
    return TokenLosses(losses=losses, is_clipped=is_above | is_below | is_far)

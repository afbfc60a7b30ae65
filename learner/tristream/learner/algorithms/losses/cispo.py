"""CISPO: the clipped ratio is a weight without gradient."""

from torch import Tensor

from tristream.learner.algorithms.losses.token_losses import Bounds, TokenLosses


def cispo_losses(ratio: Tensor, logprobs: Tensor, advantages: Tensor, bounds: Bounds) -> TokenLosses:
    """``l = -sg(clip(r, 1 - clip_low, 1 + clip_high)) * A * log p``, where ``sg`` stops the gradient.

    MiniMax-M1 (2025, arXiv 2506.13585), equations 4 and 5, and verl and NeMo RL; the paper sets no lower bound
    (``clip_low = 1``). TRL's ``min(r, epsilon_high)`` is the same with ``clip_high = epsilon_high - 1``. No token loses
    its gradient.

    Args:
        ratio: shape [tokens].
        logprobs: shape [tokens], under the policy being trained, with gradient.
        advantages: shape [tokens].
        bounds: the clip range; the other bounds are of no use here.
    """
    weight = ratio.detach().clamp(1 - bounds.clip_low, 1 + bounds.clip_high)
    is_cut = (ratio > 1 + bounds.clip_high) | (ratio < 1 - bounds.clip_low)
    return TokenLosses(losses=-weight * advantages * logprobs, is_clipped=is_cut)

"""Importance weights that are cut to their bounds."""

from torch import Tensor


def truncated(weights: Tensor, low: float, high: float) -> Tensor:
    """``min(max(w, low), high)``: truncated importance sampling (Ionides 2008).

    For samplers that differ from the trainer: Yao et al. 2025, "Your efficient RL framework secretly brings you
    off-policy RL training".

    Args:
        weights: shape [tokens], of any level.
        low: lower bound; 0 sets none.
        high: upper bound.
    """
    return weights.clamp(low, high)

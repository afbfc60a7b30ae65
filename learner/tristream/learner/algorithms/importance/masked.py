"""Importance weights that are 0 outside of their bounds."""

import torch
from torch import Tensor


def masked(weights: Tensor, low: float, high: float) -> Tensor:
    """``w if low <= w <= high else 0``: IcePop (Ling team 2025, arXiv 2510.18855), where tokens disagree too much.

    What is masked still counts in the number of tokens, so that much masking makes steps smaller, not noisier. A weight
    that is not a number is 0 too; the step looks for those by itself.

    Args:
        weights: shape [tokens], of any level.
        low: lower bound.
        high: upper bound.
    """
    return torch.where((weights >= low) & (weights <= high), weights, 0.0)

"""What a loss of tokens gives."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenLosses:
    """Losses of tokens before they are added up."""

    losses: Tensor
    """Shape [tokens], with gradient."""
    is_clipped: Tensor
    """Shape [tokens], bool: where a bound took the gradient away, or cut the weight of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """Bounds on the ratio; 0 for the last two sets none."""

    clip_low: float
    clip_high: float
    dual_clip: float = 0.0
    ratio_bound: float = 0.0

"""What losses of tokens are divided by."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """Sizes of the tokens given, and of the whole update."""

    rollout_lengths: Tensor
    """Shape [rollouts], of those given."""
    num_global_tokens: int
    num_global_rollouts: int
    max_tokens: int
    """Longest possible answer."""

"""Sums over the tokens of each rollout, of tokens that come flat."""

import torch
from torch import Tensor


def sum_of_rollouts(values: Tensor, lengths: Tensor) -> Tensor:
    """Sum over each rollout: shape [tokens] to [rollouts]; that of a rollout without tokens is 0."""
    total: Tensor = torch.segment_reduce(values, "sum", lengths=lengths, unsafe=True)
    return total


def mean_of_rollouts(values: Tensor, lengths: Tensor) -> Tensor:
    """Mean over each rollout: shape [tokens] to [rollouts]; that of a rollout without tokens is 0."""
    return sum_of_rollouts(values, lengths) / lengths.clamp(min=1)


def spread_to_tokens(values: Tensor, lengths: Tensor) -> Tensor:
    """The value of each rollout at each of its tokens: shape [rollouts] to [tokens]."""
    return values.repeat_interleave(lengths)

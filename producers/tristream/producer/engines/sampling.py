"""Sampling of next tokens: pure functions of logits and uniform numbers.

Shapes: B rows, V vocabulary. A row's token depends on its own logits and its own uniform number
alone, so that it does not matter what else is in the batch.
"""
# ruff: noqa: N803, N806 - names of tensors end in the letters of their shape

import torch
from torch import Tensor

UNIFORM_BITS = 23
"""Uniform numbers are multiples of 2^-23 below 1, so that their product with a float32 sum stays below it."""


def sample_tokens(
    logits_BV: Tensor, temperature_B: Tensor, top_p_B: Tensor, uniform_B: Tensor
) -> tuple[Tensor, Tensor]:
    """Sample one token a row by inverting the cumulative distribution.

    Args:
        logits_BV: float32; banned tokens are -inf.
        temperature_B: 0 takes the most likely token.
        top_p_B: nucleus mass kept; 1 keeps everything.
        uniform_B: uniform numbers in [0, 1 - 2^-23].

    Returns:
        Token ids [B] and their log-probabilities [B]: log_softmax(logits / temperature), renormalised over
        the nucleus where top_p < 1; log_softmax(logits) in greedy rows.
    """
    is_greedy_B = temperature_B == 0
    scaled_BV = logits_BV / torch.where(is_greedy_B, 1.0, temperature_B)[:, None]
    if bool((top_p_B < 1).any()):
        scaled_BV = keep_nucleus(scaled_BV, torch.where(is_greedy_B, 1.0, top_p_B))
    logprobs_BV = torch.log_softmax(scaled_BV, dim=-1)
    tokens_B = logits_BV.argmax(dim=-1)
    if not bool(is_greedy_B.all()):
        tokens_B = torch.where(is_greedy_B, tokens_B, invert_cumulative(logprobs_BV.exp(), uniform_B))
    return tokens_B, logprobs_BV.gather(1, tokens_B[:, None])[:, 0]


def keep_nucleus(logits_BV: Tensor, top_p_B: Tensor) -> Tensor:
    """Ban all but the smallest set of most likely tokens with at least ``top_p`` of the mass.

    Holtzman et al., "The Curious Case of Neural Text Degeneration", 2020.
    """
    sorted_BV, order_BV = logits_BV.sort(dim=-1, descending=True)
    mass_BV = sorted_BV.softmax(dim=-1)
    mass_before_BV = mass_BV.cumsum(dim=-1) - mass_BV
    is_out_BV = (mass_before_BV >= top_p_B[:, None]) & (top_p_B[:, None] < 1)
    is_out_BV[:, 0] = False
    return sorted_BV.masked_fill(is_out_BV, -torch.inf).gather(1, order_BV.argsort(dim=-1))


def invert_cumulative(probabilities_BV: Tensor, uniform_B: Tensor) -> Tensor:
    """The token in which ``uniform`` of the mass falls; never one without mass, unless the masses are no numbers."""
    cumulative_BV = probabilities_BV.cumsum(dim=-1)
    target_B = uniform_B * cumulative_BV[:, -1]
    found_B = torch.searchsorted(cumulative_BV, target_B[:, None], right=True)[:, 0]
    return found_B.clamp(max=probabilities_BV.shape[-1] - 1)

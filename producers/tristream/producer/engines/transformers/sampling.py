"""Sampling of next tokens: pure functions of logits and uniform numbers.

Truncation (top_k, top_p, min_p) decides which tokens may be sampled. Log-probabilities are those of the full
distribution whatever is left out, because these are what a learner recomputes.

Shapes: B rows, V vocabulary, C candidates: the most likely tokens, in order. A row's token depends on its own logits
and its own uniform number alone, so that it does not matter what else is in the batch.
"""
# ruff: noqa: N803, N806, N815 - names of tensors end in the letters of their shape

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tristream.wire.events import Sampling

UNIFORM_BITS = 23
"""Uniform numbers are multiples of 2^-23 below 1, so that their product with a float32 sum stays below it."""
CANDIDATES = 512
"""Most likely tokens that are sorted at first; only where more may be kept, all are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingTensors:
    """How each row is sampled."""

    temperature_B: Tensor
    """0 takes the most likely token."""
    is_greedy_B: Tensor
    all_greedy: bool
    any_greedy: bool
    truncated_rows: Tensor
    """Rows whose distribution is cut."""
    top_p: Tensor
    """Of each of these rows: nucleus mass kept; 1 keeps everything."""
    top_k: Tensor
    """Tokens kept; 0 keeps all."""
    min_p: Tensor
    """Least probability kept, as a share of the largest; 0 keeps all."""

    @classmethod
    def of(cls, samplings: Sequence[Sampling], device: torch.device) -> "SamplingTensors":
        """Those of the rows, in order."""
        greedy = [sampling.temperature == 0 for sampling in samplings]
        cut = [row for row, sampling in enumerate(samplings) if sampling.is_truncated]
        return cls(
            temperature_B=torch.tensor([sampling.temperature or 1.0 for sampling in samplings], device=device),
            is_greedy_B=torch.tensor(greedy, device=device),
            all_greedy=all(greedy),
            any_greedy=any(greedy),
            truncated_rows=torch.tensor(cut, dtype=torch.long, device=device),
            top_p=torch.tensor([samplings[row].top_p for row in cut], device=device),
            top_k=torch.tensor([samplings[row].top_k for row in cut], device=device),
            min_p=torch.tensor([samplings[row].min_p for row in cut], device=device),
        )


def sample_tokens(logits_BV: Tensor, sampling: SamplingTensors, uniform_B: Tensor) -> tuple[Tensor, Tensor]:
    """Sample one token a row by inverting the cumulative distribution.

    Args:
        logits_BV: float32; banned tokens are -inf.
        sampling: how each row is sampled.
        uniform_B: uniform numbers in [0, 1 - 2^-23].

    Returns:
        Token ids [B] and their log-probabilities [B]: log_softmax(logits / temperature), or log_softmax(logits) in
        greedy rows.
    """
    logprobs_BV = torch.log_softmax(logits_BV / sampling.temperature_B[:, None], dim=-1)
    if sampling.all_greedy:
        tokens_B = logits_BV.argmax(dim=-1)
    else:
        probabilities_BV = logprobs_BV.exp()
        rows = sampling.truncated_rows
        if len(rows):
            probabilities_BV[rows] = truncate(
                probabilities_BV[rows], top_k=sampling.top_k, top_p=sampling.top_p, min_p=sampling.min_p
            )
        tokens_B = invert_cumulative(probabilities_BV, uniform_B)
        if sampling.any_greedy:
            tokens_B = torch.where(sampling.is_greedy_B, logits_BV.argmax(dim=-1), tokens_B)
    return tokens_B, logprobs_BV.gather(1, tokens_B[:, None])[:, 0]


def truncate(probabilities_BV: Tensor, *, top_k: Tensor, top_p: Tensor, min_p: Tensor) -> Tensor:
    """Probabilities with 0 for all tokens but those kept, not renormalised.

    Kept are, in this order, tokens with at least ``min_p`` of the largest probability, the ``top_k`` most likely ones
    of them, and the fewest of these with at least ``top_p`` of their mass; the most likely token in any case.

    Holtzman et al., "The Curious Case of Neural Text Degeneration", 2020; Nguyen et al., "Turning Up the Heat: Min-p
    Sampling", 2024.
    """
    num_tokens = probabilities_BV.shape[-1]
    limits = top_k[:, None], top_p[:, None], min_p[:, None]
    sorted_BC, order_BC = probabilities_BV.topk(min(CANDIDATES, num_tokens), dim=-1)
    is_kept_BC, is_sure = _kept(sorted_BC, *limits, are_all=num_tokens <= CANDIDATES)
    if not is_sure:
        sorted_BC, order_BC = probabilities_BV.sort(dim=-1, descending=True)
        is_kept_BC, _ = _kept(sorted_BC, *limits, are_all=True)
    return torch.zeros_like(probabilities_BV).scatter_(1, order_BC, sorted_BC * is_kept_BC)


def _kept(
    sorted_BC: Tensor, top_k_B1: Tensor, top_p_B1: Tensor, min_p_B1: Tensor, *, are_all: bool
) -> tuple[Tensor, bool]:
    """Which of the most likely tokens are kept, and whether it does not matter what comes after them."""
    ranks_C = torch.arange(sorted_BC.shape[-1], device=sorted_BC.device)
    is_kept_BC = (sorted_BC >= min_p_B1 * sorted_BC[:, :1]) & ((top_k_B1 == 0) | (ranks_C < top_k_B1))
    masses_BC = sorted_BC * is_kept_BC
    before_BC = masses_BC.cumsum(dim=-1) - masses_BC
    is_open_B1 = is_kept_BC[:, -1:] & (top_k_B1 != len(ranks_C)) & (not are_all)
    # A nucleus of all tokens has a mass of 1 to compare with, whatever comes after the candidates.
    is_plain_nucleus_B1 = (top_k_B1 == 0) & (min_p_B1 == 0)
    total_B1 = torch.where(is_open_B1, 1.0, masses_BC.sum(dim=-1, keepdim=True))
    ends_here_B1 = is_plain_nucleus_B1 & (top_p_B1 < 1) & (before_BC[:, -1:] >= top_p_B1)
    is_kept_BC &= (before_BC < top_p_B1 * total_B1) | (top_p_B1 >= 1)
    is_kept_BC[:, 0] = True
    return is_kept_BC, bool((~is_open_B1 | ends_here_B1).all())


def invert_cumulative(probabilities_BV: Tensor, uniform_B: Tensor) -> Tensor:
    """The token in which ``uniform`` of the mass falls; never one without mass, unless the masses are no numbers."""
    cumulative_BV = probabilities_BV.cumsum(dim=-1)
    target_B = uniform_B * cumulative_BV[:, -1]
    found_B = torch.searchsorted(cumulative_BV, target_B[:, None], right=True)[:, 0]
    return found_B.clamp(max=probabilities_BV.shape[-1] - 1)

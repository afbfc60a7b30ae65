"""Log-probabilities and entropies of sampled tokens, without the logits of a whole batch in memory.

At most ``chunk_tokens`` rows of ``[tokens, vocabulary]`` exist at once, and each only once: probabilities take the
place of logits, and gradients that of probabilities. The last chunk is kept for its backward pass, which comes first;
those before it are dropped after their forward pass and computed again in their backward pass. The distribution is the
one the producer sampled from: logits divided by the temperature, placeholder tokens excluded.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

CPU_BLOCK_NUMBERS = 2**18
"""Logits that are worked on at once on a CPU: they stay in its cache."""
DEVICE_BLOCK_NUMBERS = 2**26
"""The same elsewhere: enough to fill a GPU, and little beside a chunk."""


def target_logprobs(
    hidden_states: Tensor,
    lm_head: Callable[[Tensor], Tensor],
    targets: Tensor,
    temperatures: Tensor,
    *,
    excluded_ids: Tensor,
    chunk_tokens: int,
) -> tuple[Tensor, Tensor]:
    """Log-probability of each target token and entropy of the distribution it was drawn from, in nats.

    Args:
        hidden_states: shape [tokens, hidden], the state that predicts each target.
        lm_head: maps [n, hidden] to [n, vocabulary] logits, which are overwritten; its own gradient must not need them.
        targets: shape [tokens], ids of the sampled tokens.
        temperatures: shape [tokens], what the logits are divided by.
        excluded_ids: shape [excluded], token ids whose probability is 0.
        chunk_tokens: most rows of logits in memory at once.

    Returns:
        float32 log-probabilities of shape [tokens], with gradient, and entropies of shape [tokens], without.
        The log-probability of an excluded target is -inf.
    """

    def of_chunk(hidden: Tensor, target: Tensor, temperature: Tensor) -> tuple[Tensor, Tensor]:
        logits = lm_head(hidden).float()
        logprobs, entropies = _TargetLogProbs.apply(logits, target, temperature, excluded_ids)  # type: ignore[no-untyped-call]
        return logprobs, entropies

    sizes = _chunk_sizes(targets.numel(), chunk_tokens)
    *others, last = zip(*(torch.split(x, sizes) for x in (hidden_states, targets, temperatures)), strict=True)
    parts = [*(checkpoint(of_chunk, *chunk, use_reentrant=False) for chunk in others), of_chunk(*last)]
    return torch.cat([logprobs for logprobs, _ in parts]), torch.cat([entropies for _, entropies in parts])


def _chunk_sizes(num_tokens: int, chunk_tokens: int) -> list[int]:
    """Tokens of each chunk; the first is the small one, since the last need not be computed again."""
    first = num_tokens % chunk_tokens or min(num_tokens, chunk_tokens)
    return [first] + [chunk_tokens] * ((num_tokens - first) // chunk_tokens)


class _TargetLogProbs(torch.autograd.Function):
    """From logits, in whose memory everything is computed.

    With logits ``z``, temperature ``T``, target ``y`` and ``p = softmax(z / T)`` the log-probability is ``log p_y``,
    and its gradient ``([i = y] - p_i) / T``. The entropy is ``-sum_i p_i log p_i``.
    """

    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401 - as torch has it
        logits: Tensor,
        targets: Tensor,
        temperatures: Tensor,
        excluded_ids: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Log-probabilities and entropies, each [tokens], of logits [tokens, vocabulary]."""
        values = logits.detach()
        logprobs, entropies = torch.empty_like(temperatures), torch.empty_like(temperatures)
        num_numbers = CPU_BLOCK_NUMBERS if values.device.type == "cpu" else DEVICE_BLOCK_NUMBERS
        num_rows = max(1, num_numbers // values.shape[1])
        for start in range(0, len(values), num_rows):
            rows = slice(start, start + num_rows)
            block = values[rows].div_(temperatures[rows, None])
            logprobs[rows], entropies[rows] = _become_probabilities(block, targets[rows], excluded_ids)
        ctx.mark_non_differentiable(entropies)
        ctx.save_for_backward(values, targets, temperatures, excluded_ids)
        return logprobs, entropies

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:  # noqa: ANN401 - as torch has it
        """The gradient of the logits, from that of the log-probabilities."""
        probabilities, targets, temperatures, excluded_ids = ctx.saved_tensors
        factors = (gradients[0] / temperatures)[:, None]
        result = probabilities.mul_(-factors).scatter_add_(1, targets[:, None], factors)
        # An excluded token has no gradient, even where it is a target.
        return result.index_fill_(1, excluded_ids, 0.0), None, None, None


def _become_probabilities(block: Tensor, targets: Tensor, excluded_ids: Tensor) -> tuple[Tensor, Tensor]:
    """Log-probabilities and entropies of logits [rows, vocabulary], which become probabilities."""
    block.index_fill_(1, excluded_ids, -torch.inf)
    block.sub_(block.amax(dim=1, keepdim=True))
    of_targets = block.gather(1, targets[:, None]).squeeze(1)
    weights = block.exp()
    mass = weights.sum(dim=1)
    # A token of probability 0 has no part in the entropy, and 0 * -inf would be NaN.
    mean = torch.linalg.vecdot(weights, block.clamp_min_(torch.finfo(block.dtype).min)) / mass
    torch.div(weights, mass[:, None], out=block)
    return of_targets - mass.log(), mass.log() - mean

"""Log-probabilities and entropies of sampled tokens, without the logits of a whole batch in memory.

At most ``chunk_tokens`` rows of ``[tokens, vocabulary]`` logits exist at once: each chunk is dropped after
its forward pass and computed again in its backward pass. The distribution is the one the producer sampled
from: logits divided by the temperature, placeholder tokens excluded.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint


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
        lm_head: maps [n, hidden] to [n, vocabulary] logits.
        targets: shape [tokens], ids of the sampled tokens.
        temperatures: shape [tokens], what the logits are divided by.
        excluded_ids: shape [excluded], token ids whose probability is 0.
        chunk_tokens: most rows of logits in memory at once.

    Returns:
        float32 log-probabilities of shape [tokens], with gradient, and entropies of shape [tokens], without.
        The log-probability of an excluded target is -inf.
    """

    def of_chunk(hidden: Tensor, target: Tensor, temperature: Tensor) -> tuple[Tensor, Tensor]:
        logits = lm_head(hidden).float() / temperature[:, None]
        if excluded_ids.numel():
            logits = logits.index_fill(1, excluded_ids, -torch.inf)
        return _logprobs_and_entropies(logits, target)

    if targets.numel() <= chunk_tokens:
        return of_chunk(hidden_states, targets, temperatures)
    parts = [
        checkpoint(of_chunk, *chunk, use_reentrant=False)
        for chunk in zip(*(torch.split(x, chunk_tokens) for x in (hidden_states, targets, temperatures)), strict=True)
    ]
    return torch.cat([logprobs for logprobs, _ in parts]), torch.cat([entropies for _, entropies in parts])


def _logprobs_and_entropies(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    log_distribution = torch.log_softmax(logits, dim=-1)
    with torch.no_grad():
        # An excluded token has probability 0, and 0 * -inf would be NaN: its term must be 0.
        entropies = -(log_distribution.exp() * log_distribution.clamp_min(torch.finfo(torch.float32).min)).sum(-1)
    return log_distribution.gather(1, targets[:, None]).squeeze(1), entropies

"""What a model is held against: its own forward pass as transformers has it, over one sequence, without a cache.

Nothing of how producers decode or learners pack is in here: the model's own attention, its own image path and its own
positions. It is in evaluation mode while it computes.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from tristream.policy.images import ProcessedImage
from tristream.policy.tokens import excluded_token_ids

PLAIN_ATTENTION = "sdpa"
OTHER_ATTENTION = "eager"
"""Computes the same in another order, so that it differs from the first by rounding alone."""


@contextmanager
def plainly(model: Any, attention: str = PLAIN_ATTENTION) -> Iterator[None]:  # noqa: ANN401 - transformers has no type
    """The model with attention of transformers and in evaluation mode; afterwards it is as it was."""
    config, is_training = model.get_decoder().config, {module: module.training for module in model.modules()}
    before = config._attn_implementation
    config._attn_implementation = attention
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        config._attn_implementation = before
        for module, was_training in is_training.items():
            module.training = was_training


def plain_logprobs(
    model: Any,  # noqa: ANN401 - transformers has no type for it
    tokens: Tensor,
    images: Sequence[ProcessedImage],
    *,
    temperature: float = 1.0,
    attention: str = PLAIN_ATTENTION,
) -> Tensor:
    """Log-probability of each token after the first: shape [tokens - 1], float32, on the CPU.

    Args:
        model: the transformers model.
        tokens: shape [tokens], int64, image placeholders expanded.
        images: the images of the placeholders, in order.
        temperature: what the logits are divided by.
        attention: an attention of transformers.
    """
    with plainly(model, attention):
        logits = run_plain(model, tokens, images)[:-1].float() / temperature
    excluded = torch.tensor(excluded_token_ids(model.config), dtype=torch.long, device=logits.device)
    logprobs = torch.log_softmax(logits.index_fill(1, excluded, -torch.inf), dim=-1)
    return logprobs.gather(1, tokens[1:, None].to(logits.device))[:, 0].cpu()


def run_plain(model: Any, tokens: Tensor, images: Sequence[ProcessedImage]) -> Tensor:  # noqa: ANN401
    """Logits [tokens, vocabulary] of the model as it is set."""
    device = next(model.parameters()).device
    ids = tokens[None].to(device)
    inputs: dict[str, Tensor] = {}
    if images:
        # Which tokens are placeholders decides between M-RoPE and plain positions.
        inputs["mm_token_type_ids"] = (ids == model.config.image_token_id).int()
        inputs["pixel_values"] = torch.cat([image.pixel_values for image in images]).to(device)
        inputs["image_grid_thw"] = torch.tensor([image.grid_thw for image in images], device=device)
    logits: Tensor = model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False, **inputs).logits[0]
    return logits

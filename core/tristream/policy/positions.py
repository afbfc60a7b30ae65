"""Rotary positions of sequences, the same for prefilling prompts and for packing whole rollouts.

A text model counts tokens; a vision model gives each image feature a time, a height and a width, and goes on
behind the largest of them (M-RoPE). Images may stand anywhere in a sequence.

Shapes: P sequences, S positions (padded on the right), R rows: 1, or 3 for M-RoPE.
"""
# ruff: noqa: N803, N806 - names of tensors end in the letters of their shape

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from tristream.policy.images import ProcessedImage
from tristream.policy.tokens import image_token_id


def sequence_positions(model: Any, tokens: Tensor, images: Sequence[ProcessedImage]) -> Tensor:  # noqa: ANN401
    """Positions of one sequence: shape [rows, tokens], rows 1, or 3 for M-RoPE.

    Args:
        model: the transformers model.
        tokens: shape [tokens], int64, image placeholders expanded.
        images: the images of the placeholders, in order.
    """
    length_P = torch.tensor([len(tokens)], device=tokens.device)
    return batch_positions(model, tokens[None], length_P, images)[0][:, 0]


def batch_positions(
    model: Any,  # noqa: ANN401 - a transformers model without types
    tokens_PS: Tensor,
    lengths_P: Tensor,
    images: Sequence[ProcessedImage],
) -> tuple[Tensor, Tensor]:
    """Positions of padded sequences, and the position that follows each.

    Args:
        model: the transformers model.
        tokens_PS: int64; what the padding holds does not matter.
        lengths_P: tokens of each sequence.
        images: the images of all placeholders, in the order of the sequences.

    Returns:
        Positions [R, P, S], those of padding without meaning, and next positions [P].
    """
    columns_S = torch.arange(tokens_PS.shape[1], device=tokens_PS.device)
    placeholder = image_token_id(model.config)
    if placeholder is None:
        return columns_S.expand(1, *tokens_PS.shape), lengths_P
    grids = [image.grid_thw for image in images]
    # The grids stay on the CPU: the model reads them as numbers, one after the other.
    positions_RPS, delta_P1 = model.base_model.get_rope_index(
        tokens_PS,
        mm_token_type_ids=tokens_PS.eq(placeholder).int(),
        image_grid_thw=torch.tensor(grids) if grids else None,
        attention_mask=(columns_S < lengths_P[:, None]).long(),
    )
    return positions_RPS, lengths_P + delta_P1[:, 0]

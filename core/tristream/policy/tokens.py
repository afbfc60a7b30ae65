"""Tokens as the policy takes them; the placeholders of images are never sampled."""

from typing import Any

import torch
from torch import Tensor

from tristream.policy.loading import has_vision
from tristream.wire.arrays import Tokens

PLACEHOLDER_FIELDS = ("vision_start_token_id", "vision_end_token_id", "image_token_id", "video_token_id")
"""Config fields of the tokens that stand for images and video."""


def excluded_token_ids(config: Any) -> tuple[int, ...]:  # noqa: ANN401 - transformers has no type for it
    """Ids of the tokens that have probability 0 wherever the policy samples, ascending; empty for a text model."""
    if not has_vision(config):
        return ()
    ids = (getattr(config, field, None) for field in PLACEHOLDER_FIELDS)
    return tuple(sorted({int(token) for token in ids if token is not None}))


def image_token_id(config: Any) -> int | None:  # noqa: ANN401 - transformers has no type for it
    """The placeholder of one image feature; None for a text model."""
    return int(config.image_token_id) if has_vision(config) else None


def token_tensor(tokens: Tokens) -> Tensor:
    """Token ids as the model takes them: shape [tokens], int64, on the CPU."""
    if not tokens:
        return torch.zeros(0, dtype=torch.long)
    return torch.frombuffer(bytearray(tokens.data), dtype=torch.int32).long()

"""Sequences to try a model with before there is anything to read: random tokens, and images of random patches."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from tristream.policy.images import ProcessedImage, num_image_tokens
from tristream.policy.loading import has_vision
from tristream.policy.tokens import excluded_token_ids

SEED = 1
CELLS = ((2, 3), (1, 2), (3, 1))
"""Rows and columns of features of the images."""


class Probes:
    """Random pieces of sequences for one model; the same ones each time."""

    def __init__(self, config: Any) -> None:  # noqa: ANN401 - transformers has no type for it
        self._config = config
        self._random = torch.Generator().manual_seed(SEED)
        vocabulary = torch.arange(config.get_text_config().vocab_size)
        excluded = torch.tensor(excluded_token_ids(config), dtype=torch.long)
        self._vocabulary = vocabulary[~torch.isin(vocabulary, excluded)]

    def tokens(self, number: int) -> list[int]:
        """So many tokens that stand for no image."""
        drawn = torch.randint(len(self._vocabulary), (number,), generator=self._random)
        return self._vocabulary[drawn].tolist()

    def images(self) -> tuple[ProcessedImage, ...]:
        """Some images of different sizes; none for a text model."""
        return tuple(self._image(*cells) for cells in CELLS) if has_vision(self._config) else ()

    def placed(self, images: Sequence[ProcessedImage]) -> list[int]:
        """The tokens that stand for images, with a few between them."""
        tokens: list[int] = []
        for image in images:
            placeholders = [int(self._config.image_token_id)] * num_image_tokens(self._config, image)
            start, end = self._config.vision_start_token_id, self._config.vision_end_token_id
            tokens += [*self.tokens(2), start, *placeholders, end]
        return tokens

    def _image(self, rows: int, columns: int) -> ProcessedImage:
        config = self._config.vision_config
        merge, patch = config.spatial_merge_size, config.patch_size
        grid = 1, rows * merge, columns * merge
        channels = getattr(config, "in_channels", None) or getattr(config, "in_chans", 3)
        shape = grid[1] * grid[2], channels * config.temporal_patch_size * patch * patch
        return ProcessedImage(
            sha256=f"{rows}{columns}".rjust(64, "0"),
            pixel_values=torch.randn(shape, generator=self._random),
            grid_thw=grid,
        )


def as_tensor(tokens: Sequence[int]) -> Tensor:
    """Token ids as the model takes them."""
    return torch.tensor(tokens, dtype=torch.long)

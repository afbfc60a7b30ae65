"""Images as the vision tower takes them: read from the store, decoded and processed once."""

import io
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image as PillowImage
from torch import Tensor

from tristream.wire.events import Image

CACHED_IMAGES = 256
"""Processed images kept; a prompt comes back with its group's neighbours and in later epochs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessedImage:
    """One image cut into patches."""

    sha256: str
    pixel_values: Tensor
    """Shape [patches, values of a patch], float32."""
    grid_thw: tuple[int, int, int]
    """Patches along time, height and width."""

    @property
    def num_patches(self) -> int:
        """Patches in all."""
        return self.grid_thw[0] * self.grid_thw[1] * self.grid_thw[2]


class ImageLoader:
    """Loads images with the checkpoint's own image processor; the newest stay in memory."""

    def __init__(self, model_path: Path, read_image: Callable[[Image], bytes]) -> None:
        """Take the model folder and how encoded bytes are read, such as ``BlobStore.read_image``."""
        self._model_path = model_path
        self._processor: Any = None
        self._read_image = read_image
        self._cache: OrderedDict[str, ProcessedImage] = OrderedDict()

    def load(self, image: Image) -> ProcessedImage:
        """The image cut into patches.

        Raises:
            BlobError: its bytes are missing or damaged.
        """
        if image.sha256 not in self._cache:
            self._cache[image.sha256] = self._process(image)
        self._cache.move_to_end(image.sha256)
        while len(self._cache) > CACHED_IMAGES:
            self._cache.popitem(last=False)
        return self._cache[image.sha256]

    def _process(self, image: Image) -> ProcessedImage:
        if self._processor is None:
            # The lazy export of transformers demands torchvision, which the PIL backend does not need.
            from transformers.models.auto.image_processing_auto import AutoImageProcessor

            self._processor = AutoImageProcessor.from_pretrained(self._model_path, backend="pil")
        picture = PillowImage.open(io.BytesIO(self._read_image(image))).convert("RGB")
        processed = self._processor(images=[picture], return_tensors="pt")
        time, height, width = (int(size) for size in processed["image_grid_thw"][0])
        return ProcessedImage(
            sha256=image.sha256,
            pixel_values=processed["pixel_values"].to(torch.float32),
            grid_thw=(time, height, width),
        )

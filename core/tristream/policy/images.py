"""Images as the vision tower takes them: read from the store, decoded and cut into patches by one function."""

import io
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image as PillowImage
from PIL import UnidentifiedImageError
from torch import Tensor

# The same name at the top of transformers refuses to work without torchvision; this one has a PIL backend.
from transformers.models.auto.image_processing_auto import AutoImageProcessor

from tristream.runtime.errors import UserError
from tristream.wire.events import Image

CACHED_IMAGES = 256
"""Processed images kept; a prompt comes back with its group's neighbours and in later epochs."""


class PolicyInputError(Exception):
    """Input that this policy cannot read; other input is not affected."""


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
            PolicyInputError: its bytes are not an image.
            UserError: the model folder has no image processor.
        """
        if image.sha256 not in self._cache:
            if self._processor is None:
                self._processor = load_image_processor(self._model_path)
            self._cache[image.sha256] = process_image(self._processor, self._read_image(image), image.sha256)
        self._cache.move_to_end(image.sha256)
        while len(self._cache) > CACHED_IMAGES:
            self._cache.popitem(last=False)
        return self._cache[image.sha256]


def load_image_processor(model_path: Path) -> Any:  # noqa: ANN401 - transformers has no type for it
    """The image processor of a model folder.

    Raises:
        UserError: the folder has none.
    """
    try:
        return AutoImageProcessor.from_pretrained(model_path, backend="pil")
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"has no image processor ({reason})", where=str(model_path), remedy="add preprocessor_config.json"
        ) from None


def process_image(processor: Any, data: bytes, sha256: str) -> ProcessedImage:  # noqa: ANN401
    """An encoded image cut into patches.

    Raises:
        PolicyInputError: the bytes are not a whole image, or the processor refuses its size.
    """
    pixels = read_pixels(data)
    try:
        processed = processor(images=[pixels], return_tensors="pt")
    except ValueError as error:
        raise PolicyInputError(f"an image of {pixels.width} x {pixels.height} pixels: {error}") from None
    time, height, width = (int(size) for size in processed["image_grid_thw"][0])
    return ProcessedImage(
        sha256=sha256, pixel_values=processed["pixel_values"].to(torch.float32), grid_thw=(time, height, width)
    )


def num_image_tokens(config: Any, image: ProcessedImage) -> int:  # noqa: ANN401 - transformers has no type for it
    """How many placeholders stand for an image: its patches, merged."""
    return image.num_patches // int(config.vision_config.spatial_merge_size) ** 2


def open_image(data: bytes) -> PillowImage.Image:
    """An encoded image, its pixels not yet read.

    Raises:
        PolicyInputError: the bytes are not an image.
    """
    try:
        return PillowImage.open(io.BytesIO(data))
    except (UnidentifiedImageError, OSError) as error:
        raise PolicyInputError(f"an image cannot be opened: {error}") from None


def read_pixels(data: bytes) -> PillowImage.Image:
    """An encoded image as RGB pixels.

    Raises:
        PolicyInputError: the bytes are not a whole image.
    """
    try:
        return open_image(data).convert("RGB")
    except (OSError, SyntaxError) as error:
        raise PolicyInputError(f"an image is damaged: {error}") from None

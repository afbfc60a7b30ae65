"""Images as the vision tower takes them: read from the store, decoded and cut into patches by one function."""

import io
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image as PillowImage
from torch import Tensor

# The same name at the top of transformers refuses to work without torchvision; this one has a PIL backend.
from transformers.models.auto.image_processing_auto import AutoImageProcessor

from tristream.policy.image_header import FORMATS, MAX_IMAGE_PIXELS, ImageRefusedError, check_image
from tristream.runtime.errors import UserError
from tristream.wire.events import Image

CACHED_BYTES = 512 * 2**20
"""Bytes of processed images kept; a prompt comes back with its group's neighbours and in later epochs."""


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

    @property
    def num_bytes(self) -> int:
        """Bytes of its patches in memory."""
        return self.pixel_values.numel() * self.pixel_values.element_size()


class ImageLoader:
    """Loads images with the checkpoint's own image processor; the newest stay in memory."""

    def __init__(
        self,
        model_path: Path,
        read_image: Callable[[Image], bytes],
        *,
        max_pixels: int = MAX_IMAGE_PIXELS,
        cached_bytes: int = CACHED_BYTES,
    ) -> None:
        """Take the model folder, how encoded bytes are read, such as ``BlobStore.read_image``, and bounds."""
        self._model_path = model_path
        self._max_pixels = max_pixels
        self._cached_bytes = cached_bytes
        self._num_bytes = 0
        self._processor: Any = None
        self._read_image = read_image
        self._cache: OrderedDict[str, ProcessedImage] = OrderedDict()

    def load(self, image: Image) -> ProcessedImage:
        """The image cut into patches.

        Raises:
            BlobError: its bytes are missing or damaged.
            PolicyInputError: its bytes are no image, or one that is too large.
            UserError: the model folder has no image processor.
        """
        processed = self._cache.pop(image.sha256, None)
        if processed is None:
            if self._processor is None:
                self._processor = load_image_processor(self._model_path)
            data = self._read_image(image)
            processed = process_image(self._processor, data, image.sha256, max_pixels=self._max_pixels)
            self._num_bytes += processed.num_bytes
        self._cache[image.sha256] = processed
        while self._num_bytes > self._cached_bytes:
            _, oldest = self._cache.popitem(last=False)
            self._num_bytes -= oldest.num_bytes
        return processed


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


def process_image(
    processor: Any,  # noqa: ANN401 - transformers has no type for it
    data: bytes,
    sha256: str,
    *,
    max_pixels: int = MAX_IMAGE_PIXELS,
) -> ProcessedImage:
    """An encoded image cut into patches.

    Raises:
        PolicyInputError: the bytes are not a whole image, or it is too large, or the processor refuses its size.
    """
    pixels = read_pixels(data, max_pixels)
    try:
        processed = processor(images=[pixels], return_tensors="pt")
    except Exception as error:  # a processor answers sizes that it cannot take with errors of every kind
        raise PolicyInputError(f"an image of {pixels.width} x {pixels.height} pixels: {_describe(error)}") from None
    time, height, width = (int(size) for size in processed["image_grid_thw"][0])
    return ProcessedImage(
        sha256=sha256, pixel_values=processed["pixel_values"].to(torch.float32), grid_thw=(time, height, width)
    )


def num_image_tokens(config: Any, image: ProcessedImage) -> int:  # noqa: ANN401 - transformers has no type for it
    """How many placeholders stand for an image: its patches, merged."""
    return image.num_patches // int(config.vision_config.spatial_merge_size) ** 2


def image_size(data: bytes, max_pixels: int = MAX_IMAGE_PIXELS) -> tuple[int, int]:
    """Width and height of an encoded image, from its header.

    Raises:
        PolicyInputError: the bytes are no image that is read, or one that is too large.
    """
    try:
        return check_image(data, max_pixels)
    except ImageRefusedError as error:
        raise PolicyInputError(f"an image is refused: {error}") from None


def read_pixels(data: bytes, max_pixels: int = MAX_IMAGE_PIXELS) -> PillowImage.Image:
    """An encoded image as RGB pixels; of an animation the first frame.

    Raises:
        PolicyInputError: the bytes are not a whole image, or it is too large.
    """
    image_size(data, max_pixels)
    try:
        image = PillowImage.open(io.BytesIO(data), formats=FORMATS)
        if image.width * image.height > max_pixels:
            raise PolicyInputError(f"an image of {image.width} x {image.height} pixels hides behind a smaller header")
        return image.convert("RGB")
    except PolicyInputError:
        raise
    except Exception as error:  # a decoder answers damaged bytes with errors of every kind
        raise PolicyInputError(f"an image is damaged: {_describe(error)}") from None


def _describe(error: Exception) -> str:
    return str(error) or type(error).__name__

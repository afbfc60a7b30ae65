"""The size at which the model saw an image, for answers in pixels of the resized image.

Qwen2.5-VL answers in pixels of its own resized input, and V-Triune's ``det_verifier_normalized`` asks
for such boxes to be rescaled by that size. It follows from the image and the model's preprocessor
configuration alone, so no rollout has to carry it. Only the first image counts, as in V-Triune.
"""

import asyncio
import io
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tristream.runtime.store import BlobStore
from tristream.wire.events import Image, Rollout

CONFIG_FILES = ("preprocessor_config.json", "processor_config.json")


@dataclass(frozen=True, slots=True, kw_only=True)
class ResizeRule:
    """How Qwen2-VL's image processor chooses a size."""

    factor: int
    """Both sides are multiples of this: patch size times merge size."""
    min_pixels: int
    max_pixels: int

    def resized(self, height: int, width: int) -> tuple[int, int]:
        """Height and width after resizing, as ``smart_resize`` of transformers."""
        factor = self.factor
        new_height, new_width = round(height / factor) * factor, round(width / factor) * factor
        if new_height * new_width > self.max_pixels:
            shrink = math.sqrt(height * width / self.max_pixels)
            new_height = max(factor, math.floor(height / shrink / factor) * factor)
            new_width = max(factor, math.floor(width / shrink / factor) * factor)
        elif new_height * new_width < self.min_pixels:
            grow = math.sqrt(self.min_pixels / (height * width))
            new_height = math.ceil(height * grow / factor) * factor
            new_width = math.ceil(width * grow / factor) * factor
        return new_height, new_width


def read_resize_rule(model_path: Path) -> ResizeRule:
    """The rule in a model folder.

    Raises:
        ValueError: no file of the folder holds one.
    """
    for name in CONFIG_FILES:
        try:
            config = json.loads((model_path / name).read_text(encoding="utf-8"))
        except FileNotFoundError:
            continue
        config = config.get("image_processor", config)
        size = config.get("size") or {}
        low = config.get("min_pixels") or size.get("shortest_edge") or size.get("min_pixels")
        high = config.get("max_pixels") or size.get("longest_edge") or size.get("max_pixels")
        patch, merge = config.get("patch_size"), config.get("merge_size")
        if low and high and patch and merge:
            return ResizeRule(factor=patch * merge, min_pixels=low, max_pixels=high)
    raise ValueError(f"no image size rule in {' or '.join(CONFIG_FILES)} of {model_path}")


class ImageSizes:
    """Adds ``image_grid_thw`` to the parameters that need it."""

    def __init__(self, model_path: Path, store_uri: str) -> None:
        self._model_path = model_path
        self._store_uri = store_uri
        self._store: BlobStore | None = None
        self._rule: ResizeRule | None = None

    async def complete(self, rollout: Rollout, params: dict[str, Any]) -> dict[str, Any]:
        """The parameters, with ``image_grid_thw`` in pixels if boxes have to be rescaled.

        Raises:
            ValueError: the rollout has no readable image, or the model folder has no resize rule.
            BlobError: the image is not in the store.
        """
        if not params.get("det_verifier_normalized") or params.get("image_grid_thw"):
            return params
        if not rollout.images:
            raise ValueError("det_verifier_normalized is set but the rollout has no image")
        if self._rule is None:
            self._rule = read_resize_rule(self._model_path)
        height, width = await asyncio.to_thread(self._read_size, rollout.images[0])
        return {**params, "image_grid_thw": [[1, *self._rule.resized(height, width)]]}

    def _read_size(self, image: Image) -> tuple[int, int]:
        from PIL import Image as PillowImage
        from PIL import UnidentifiedImageError

        if self._store is None:
            self._store = BlobStore(self._store_uri)
        data = self._store.read_image(image)
        try:
            width, height = PillowImage.open(io.BytesIO(data)).size  # reads the header only
        except (UnidentifiedImageError, OSError) as error:
            raise ValueError(f"the image cannot be read: {error}") from None
        return height, width

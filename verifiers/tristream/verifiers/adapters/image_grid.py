"""The size at which the model saw an image, for answers in pixels of the resized image.

Qwen2.5-VL answers in pixels of its own resized input, and V-Triune's ``det_verifier_normalized`` asks
for such boxes to be rescaled by that size. It follows from the image and the model's preprocessor
configuration alone, so no rollout has to carry it. Only the first image counts, as in V-Triune.
"""

import asyncio
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tristream.policy.resizing import ResizeRule, read_resize_rule
from tristream.runtime.store import BlobStore
from tristream.wire.events import Image, Rollout


class ImageSizes:
    """Adds ``image_grid_thw`` to the parameters that need it."""

    def __init__(self, model_path: Path, open_run_store: Callable[[], BlobStore]) -> None:
        self._model_path = model_path
        self._open_store = open_run_store
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
            self._store = self._open_store()
        data = self._store.read_image(image)
        try:
            width, height = PillowImage.open(io.BytesIO(data)).size  # reads the header only
        except (UnidentifiedImageError, OSError) as error:
            raise ValueError(f"the image cannot be read: {error}") from None
        return height, width

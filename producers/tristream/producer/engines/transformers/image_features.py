"""What the vision tower makes of images, kept while its weights stay the same.

Held-out images come back in every round of evaluation, and those of training in every epoch. A tower that is frozen,
as in V-Triune's recipe, makes the same of them each time.
"""

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from tristream.policy.images import ProcessedImage

KEPT_BYTES = 256 * 2**20
"""Features kept; those that were wanted last stay."""


@dataclass(frozen=True, slots=True)
class _Features:
    """Of one image: what takes the place of its placeholders, and what is added in later layers (Qwen3-VL)."""

    embeddings: Tensor
    deepstack: tuple[Tensor, ...]

    @property
    def num_bytes(self) -> int:
        return sum(each.nbytes for each in (self.embeddings, *self.deepstack))


class ImageFeatures:
    """Features by the sha256 of an image; ``base`` is the model below the head, with its vision tower."""

    def __init__(self, base: Any, device: torch.device, *, kept_bytes: int = KEPT_BYTES) -> None:  # noqa: ANN401
        self._base = base
        self._device = device
        self._kept_bytes = kept_bytes
        self._num_bytes = 0
        self._kept: OrderedDict[str, _Features] = OrderedDict()

    def clear(self) -> None:
        """Forget all: the tower is another."""
        self._kept.clear()
        self._num_bytes = 0

    @contextmanager
    def given(self, images: Sequence[ProcessedImage]) -> Iterator[None]:
        """Let the model take the features of these images, in this order, whatever pixels it is given."""
        features = self._of(images)
        deepstack = [torch.cat(layer) for layer in zip(*(each.deepstack for each in features), strict=True)]
        outputs = SimpleNamespace(
            pooler_output=tuple(each.embeddings for each in features), deepstack_features=deepstack
        )
        self._base.get_image_features = lambda *_arguments, **_options: outputs
        try:
            yield
        finally:
            del self._base.get_image_features

    def _of(self, images: Sequence[ProcessedImage]) -> list[_Features]:
        missing = {image.sha256: image for image in images if image.sha256 not in self._kept}
        made = dict(zip(missing, self._make(list(missing.values())), strict=True)) if missing else {}
        features = [made.get(image.sha256) or self._kept[image.sha256] for image in images]
        for image, each in zip(images, features, strict=True):
            self._keep(image.sha256, each)
        return features

    def _make(self, images: Sequence[ProcessedImage]) -> list[_Features]:
        pixels = torch.cat([image.pixel_values for image in images]).to(self._device)
        grids = torch.tensor([image.grid_thw for image in images], device=self._device)
        outputs = self._base.get_image_features(pixels, grids)
        embeddings = outputs.pooler_output
        sizes = [len(each) for each in embeddings]
        layers = [layer.split(sizes) for layer in getattr(outputs, "deepstack_features", None) or ()]
        # A part of a tensor would keep the whole of it.
        return [
            _Features(each.clone(), tuple(layer[number].clone() for layer in layers))
            for number, each in enumerate(embeddings)
        ]

    def _keep(self, sha256: str, features: _Features) -> None:
        if sha256 not in self._kept:
            self._num_bytes += features.num_bytes
        self._kept[sha256] = features
        self._kept.move_to_end(sha256)
        while self._num_bytes > self._kept_bytes:
            _, oldest = self._kept.popitem(last=False)
            self._num_bytes -= oldest.num_bytes

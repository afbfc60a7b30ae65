"""The size at which the model sees an image, computed without the model: nothing here needs torch."""

import json
import math
from dataclasses import dataclass
from pathlib import Path

CONFIG_FILES = ("preprocessor_config.json", "processor_config.json")


@dataclass(frozen=True, slots=True, kw_only=True)
class ResizeRule:
    """How Qwen2-VL's image processor chooses a size."""

    factor: int
    """Both sides are multiples of this: patch size times merge size."""
    min_pixels: int
    max_pixels: int

    def resized(self, height: int, width: int) -> tuple[int, int]:
        """Height and width in pixels after resizing, as ``smart_resize`` of transformers."""
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

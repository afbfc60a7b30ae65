"""The size of an image is computed as the model's own image processor does."""

import io
import json
import sys
from collections.abc import Callable
from pathlib import Path
from subprocess import run

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from PIL import Image
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize

from tristream.policy.images import load_image_processor, process_image
from tristream.policy.resizing import ResizeRule, read_resize_rule


@settings(deadline=None)
@given(
    height=st.integers(1, 4000),
    width=st.integers(1, 4000),
    factor=st.sampled_from([8, 28, 32]),
    max_patches=st.integers(16, 16384),
)
def test_resizing_equals_smart_resize_of_transformers(height: int, width: int, factor: int, max_patches: int) -> None:
    assume(max(height, width) / min(height, width) <= 200)
    low, high = 4 * factor**2, max_patches * factor**2
    rule = ResizeRule(factor=factor, min_pixels=low, max_pixels=high)
    assert rule.resized(height, width) == smart_resize(height, width, factor, low, high)


@pytest.mark.parametrize(("width", "height"), [(16, 16), (3, 5), (90, 30), (400, 37)])
def test_the_rule_of_a_model_folder_gives_the_grid_of_its_image_processor(
    width: int, height: int, vision_model_path: Path, make_image: Callable[[int, int, int], bytes]
) -> None:
    processor = load_image_processor(vision_model_path)
    data = make_image(width, height, 1)
    assert Image.open(io.BytesIO(data)).size == (width, height)
    resized_height, resized_width = read_resize_rule(vision_model_path).resized(height, width)
    patch = processor.patch_size
    assert process_image(processor, data, "").grid_thw == (1, resized_height // patch, resized_width // patch)


@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("preprocessor_config.json", {"size": {"shortest_edge": 3136, "longest_edge": 9408}}),
        ("preprocessor_config.json", {"min_pixels": 3136, "max_pixels": 9408}),
        ("processor_config.json", {"image_processor": {"size": {"min_pixels": 3136, "max_pixels": 9408}}}),
    ],
)
def test_the_rule_is_read_from_every_kind_of_file(name: str, config: dict[str, dict[str, int]], tmp_path: Path) -> None:
    config.get("image_processor", config).update(patch_size=14, merge_size=2)  # type: ignore[call-overload]
    (tmp_path / name).write_text(json.dumps(config))
    assert read_resize_rule(tmp_path) == ResizeRule(factor=28, min_pixels=3136, max_pixels=9408)


def test_a_folder_without_a_rule_is_said(tmp_path: Path) -> None:
    (tmp_path / "preprocessor_config.json").write_text("{}")
    with pytest.raises(ValueError, match="no image size rule"):
        read_resize_rule(tmp_path)


def test_resizing_does_not_load_torch() -> None:
    program = "import sys, tristream.policy.resizing; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    assert run([sys.executable, "-c", program], check=False).returncode == 0

"""The registry, the resize rule, and Faust's settings."""

import asyncio
import hashlib
import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from builders import make_rollout
from hypothesis import given, settings
from hypothesis import strategies as st

from tristream.config.run_file import RunFile
from tristream.runtime.errors import UserError
from tristream.verifiers.adapters.image_grid import ImageSizes, ResizeRule, read_resize_rule
from tristream.verifiers.registry import VERIFIERS, canonical_name, select_verifiers
from tristream.verifiers.service.faust_consumer import SafeConsumer
from tristream.verifiers.service.worker import group_name
from tristream.wire.events import Image

CONFIG = {"size": {"shortest_edge": 3136, "longest_edge": 1003520}, "patch_size": 14, "merge_size": 2}


def test_no_names_select_all_verifiers() -> None:
    assert select_verifiers(()) == dict(VERIFIERS)
    assert {"math", "detection", "counting", "ocr"} <= set(VERIFIERS)


def test_an_alias_selects_what_it_means() -> None:
    assert canonical_name("mathverify") == "math"
    assert list(select_verifiers(["mathverify", "ocr"])) == ["math", "ocr"]


def test_an_unknown_name_is_a_user_error_that_lists_the_known_ones() -> None:
    with pytest.raises(UserError, match=r"unknown verifier 'oracle'.*counting, detection, math, mathverify, ocr"):
        select_verifiers(["oracle"])


def test_names_and_versions_are_set() -> None:
    assert all(verifier.name == name and verifier.version for name, verifier in VERIFIERS.items())


def run_file(**verification: Any) -> RunFile:
    return RunFile.model_validate(
        {
            "run": {"id": "r", "steps": 1},
            "model": {"path": "m"},
            "sources": [{"name": "s", "train": "t"}],
            "verification": verification,
        }
    )


def test_workers_with_the_same_verifiers_share_a_group() -> None:
    assert group_name(run_file()) == "tristream.r.verifier.all"
    assert group_name(run_file(verifiers=["ocr", "math"])) == "tristream.r.verifier.math-ocr"


@pytest.mark.parametrize(
    ("height", "width", "resized"),
    [(410, 620, (420, 616)), (28, 28, (56, 56)), (3000, 2000, (1204, 812)), (30, 900, (28, 896))],
)
def test_resizing_keeps_whole_patches_and_the_area(height: int, width: int, resized: tuple[int, int]) -> None:
    assert ResizeRule(factor=28, min_pixels=3136, max_pixels=1003520).resized(height, width) == resized


@pytest.mark.slow
@settings(deadline=None)
@given(st.integers(20, 4000), st.integers(20, 4000))
def test_resizing_equals_the_image_processor(height: int, width: int) -> None:
    pil_module = pytest.importorskip("transformers.models.qwen2_vl.image_processing_pil_qwen2_vl")
    rule = ResizeRule(factor=28, min_pixels=3136, max_pixels=1003520)
    if max(height, width) / min(height, width) <= 200:
        assert rule.resized(height, width) == pil_module.smart_resize(height, width, 28, 3136, 1003520)


@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("preprocessor_config.json", CONFIG),
        ("preprocessor_config.json", {"min_pixels": 3136, "max_pixels": 1003520, "patch_size": 14, "merge_size": 2}),
        ("processor_config.json", {"image_processor": CONFIG}),
    ],
)
def test_the_resize_rule_is_read_from_the_model_folder(tmp_path: Path, name: str, config: dict[str, Any]) -> None:
    (tmp_path / name).write_text(json.dumps(config))
    assert read_resize_rule(tmp_path) == ResizeRule(factor=28, min_pixels=3136, max_pixels=1003520)


def make_image(width: int, height: int) -> Image:
    pillow = pytest.importorskip("PIL.Image")
    buffer = io.BytesIO()
    pillow.new("RGB", (width, height)).save(buffer, "PNG")
    data = buffer.getvalue()
    return Image(media_type="image/png", sha256=hashlib.sha256(data).hexdigest(), size_bytes=len(data), data=data)


def complete(folder: Path, images: tuple[Image, ...], params: dict[str, Any]) -> dict[str, Any]:
    rollout = make_rollout("x")
    with_images = type(rollout)(
        **{
            **{name: getattr(rollout, name) for name in rollout.__dataclass_fields__},
            "images": images,
        }
    )
    return asyncio.run(ImageSizes(folder, str(folder)).complete(with_images, params))


def test_the_image_size_is_added_where_boxes_have_to_be_rescaled(tmp_path: Path) -> None:
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(CONFIG))
    image = make_image(620, 410)
    wanted = {"det_verifier_normalized": True}
    assert complete(tmp_path, (image,), wanted) == {**wanted, "image_grid_thw": [[1, 420, 616]]}
    assert complete(tmp_path, (image,), {"det_verifier_normalized": False}) == {"det_verifier_normalized": False}
    given_size = {**wanted, "image_grid_thw": [[1, 28, 28]]}
    assert complete(tmp_path, (image,), given_size) == given_size


def test_a_missing_image_or_rule_is_said(tmp_path: Path) -> None:
    wanted = {"det_verifier_normalized": True}
    with pytest.raises(ValueError, match="no image"):
        complete(tmp_path, (), wanted)
    with pytest.raises(ValueError, match="no image size rule"):
        complete(tmp_path, (make_image(30, 30),), wanted)


@dataclass(frozen=True)
class Held:
    """A message as the consumer keeps it."""

    tp: tuple[str, int]
    offset: int
    acked: bool


def make_consumer(committed: int | None, acked: list[int], in_hand: list[int]) -> SafeConsumer:
    consumer = object.__new__(SafeConsumer)
    tp = ("topic", 0)
    consumer._acked = {tp: list(acked)}
    consumer._acked_index = {tp: set(acked)}
    consumer._gap = {tp: []}
    consumer._committed_offset = {tp: committed}
    consumer._unacked_messages = {Held(tp=tp, offset=offset, acked=False) for offset in in_hand}
    return consumer


@pytest.mark.parametrize(
    ("committed", "acked", "in_hand", "offset"),
    [
        (5, [5, 6, 7], [], 8),
        (5, [6, 7, 8], [5], None),
        (5, [5, 7, 8], [6], 6),
        (None, [1, 2, 3], [0], None),
        (5, [], [5], None),
    ],
)
def test_a_commit_never_passes_a_message_in_hand(
    committed: int | None, acked: list[int], in_hand: list[int], offset: int | None
) -> None:
    consumer = make_consumer(committed, acked, in_hand)
    assert consumer._new_offset(("topic", 0)) == offset
    remaining = [number for number in acked if in_hand and number > min(in_hand)]
    assert consumer._acked[("topic", 0)][-len(remaining) :] == remaining or not remaining

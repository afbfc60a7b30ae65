"""The image grid: the size at which the model saw an image."""

import asyncio
import hashlib
import io
import json
from pathlib import Path
from typing import Any

import pytest
from builders import make_rollout

from tristream.runtime.store import BlobStore
from tristream.verifiers.adapters.image_grid import ImageSizes
from tristream.wire.events import Image

CONFIG = {"size": {"shortest_edge": 3136, "longest_edge": 1003520}, "patch_size": 14, "merge_size": 2}


def make_image(width: int, height: int) -> Image:
    pillow = pytest.importorskip("PIL.Image")
    buffer = io.BytesIO()
    pillow.new("RGB", (width, height)).save(buffer, "PNG")
    data = buffer.getvalue()
    return Image(media_type="image/png", sha256=hashlib.sha256(data).hexdigest(), size_bytes=len(data), data=data)


def complete(folder: Path, images: tuple[Image, ...], params: dict[str, Any]) -> dict[str, Any]:
    return asyncio.run(
        ImageSizes(folder, lambda: BlobStore(str(folder))).complete(make_rollout("x", images=images), params)
    )


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

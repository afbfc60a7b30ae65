"""The image grid: the size at which the model saw an image."""

import hashlib
import io
import json
from pathlib import Path
from typing import Any

import pytest
from builders import make_rollout

from tristream.runtime.store import BlobStore, StoreUnavailableError
from tristream.verifiers.adapters import image_grid
from tristream.verifiers.adapters.image_grid import ImageSizes
from tristream.verifiers.contract import Unscorable
from tristream.wire.events import Image

CONFIG = {"size": {"shortest_edge": 3136, "longest_edge": 1003520}, "patch_size": 14, "merge_size": 2}
WANTED = '{"det_verifier_normalized": true}'


def make_image(width: int, height: int) -> Image:
    pillow = pytest.importorskip("PIL.Image")
    buffer = io.BytesIO()
    pillow.new("RGB", (width, height)).save(buffer, "PNG")
    data = buffer.getvalue()
    return Image(media_type="image/png", sha256=hashlib.sha256(data).hexdigest(), size_bytes=len(data), data=data)


def complete(folder: Path, images: tuple[Image, ...], params: dict[str, Any]) -> dict[str, Any]:
    sizes = ImageSizes(folder, lambda: BlobStore(str(folder)))
    completed: dict[str, Any] = json.loads(sizes.complete(make_rollout("x", images=images), json.dumps(params)))
    return completed


def grid_of(sizes: ImageSizes, image: Image) -> object:
    return json.loads(sizes.complete(make_rollout("x", images=(image,)), WANTED))["image_grid_thw"]


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


def test_what_is_no_image_is_said_and_parameters_without_boxes_are_not_even_read(tmp_path: Path) -> None:
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(CONFIG))
    data = b"no image"
    image = Image(media_type="image/png", sha256=hashlib.sha256(data).hexdigest(), size_bytes=len(data), data=data)
    with pytest.raises(ValueError, match="no PNG"):
        complete(tmp_path, (image,), {"det_verifier_normalized": True})
    sizes = ImageSizes(tmp_path, lambda: BlobStore(str(tmp_path)))
    assert sizes.complete(make_rollout("x"), "no JSON") == "no JSON"
    with pytest.raises(Unscorable):
        sizes.complete(make_rollout("x"), "det_verifier_normalized")


def test_only_parameters_that_may_need_an_image_concern_it(tmp_path: Path) -> None:
    sizes = ImageSizes(tmp_path, lambda: BlobStore(str(tmp_path)))
    assert sizes.concern(WANTED)
    assert not sizes.concern('{"style": "vtriune"}')


def test_an_image_is_read_once_for_all_rollouts_of_a_group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(CONFIG))
    read: list[str] = []
    read_image = BlobStore.read_image

    def count(store: BlobStore, image: Image) -> bytes:
        read.append(image.sha256)
        return read_image(store, image)

    monkeypatch.setattr(BlobStore, "read_image", count)
    monkeypatch.setattr(image_grid, "MAX_SIZES", 2)
    sizes = ImageSizes(tmp_path, lambda: BlobStore(str(tmp_path)))
    first, second, third = (make_image(width, 410) for width in (620, 640, 660))
    grids = [grid_of(sizes, image) for image in (first, first, second, first, third, first, second)]
    assert grids[0] == grids[1] == grids[3] == grids[5] == [[1, 420, 616]]
    assert read == [first.sha256, second.sha256, third.sha256, second.sha256]


def test_a_store_that_is_away_is_waited_for_and_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(CONFIG))
    said: list[str] = []
    read_image = BlobStore.read_image

    def read_later(store: BlobStore, image: Image) -> bytes:
        if not said:
            said.append(sizes.waiting_for)
            raise StoreUnavailableError("the store answers 503")
        said.append(sizes.waiting_for)
        return read_image(store, image)

    monkeypatch.setattr(BlobStore, "read_image", read_later)
    sizes = ImageSizes(tmp_path, lambda: BlobStore(str(tmp_path)))
    assert grid_of(sizes, make_image(620, 410)) == [[1, 420, 616]]
    assert (said, sizes.waiting_for) == (["", "the store answers 503"], "")

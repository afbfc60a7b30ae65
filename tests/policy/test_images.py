"""Images become the same patches wherever they are read, and what is no image is refused."""

import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tristream.policy.images import ImageLoader, PolicyInputError, load_image_processor, process_image
from tristream.runtime.errors import UserError
from tristream.wire.events import Image

MakeImage = Callable[[int, int, int], bytes]


def as_event(data: bytes) -> Image:
    digest = hashlib.sha256(data).hexdigest()
    return Image(media_type="image/png", sha256=digest, size_bytes=len(data), data=data)


def test_the_loader_gives_the_patches_of_the_image_processor(vision_model_path: Path, make_image: MakeImage) -> None:
    image = as_event(make_image(40, 16, 3))
    loaded = ImageLoader(vision_model_path, lambda image: image.data).load(image)
    processed = process_image(load_image_processor(vision_model_path), image.data, image.sha256)
    assert (loaded.sha256, loaded.grid_thw) == (image.sha256, (1, 4, 10))
    assert loaded.pixel_values.shape == (loaded.num_patches, 3 * 2 * 4 * 4)
    assert torch.equal(loaded.pixel_values, processed.pixel_values)


def test_the_newest_images_are_kept_within_their_bytes_and_old_ones_read_again(
    vision_model_path: Path, make_image: MakeImage
) -> None:
    reads: list[str] = []

    def read(image: Image) -> bytes:
        reads.append(image.sha256)
        return image.data

    small, other, large = (as_event(make_image(size, size, size)) for size in (16, 24, 40))
    num_bytes = {
        image.sha256: ImageLoader(vision_model_path, lambda image: image.data).load(image).num_bytes
        for image in (small, other, large)
    }
    room = num_bytes[small.sha256] + num_bytes[large.sha256]
    assert num_bytes[other.sha256] < num_bytes[large.sha256]
    loader = ImageLoader(vision_model_path, read, cached_bytes=room)
    for image in (small, other, small, large, small, large, other):
        loader.load(image)
    assert reads == [image.sha256 for image in (small, other, large, other)]
    tiny = ImageLoader(vision_model_path, read, cached_bytes=1)
    assert torch.equal(tiny.load(small).pixel_values, tiny.load(small).pixel_values)
    assert reads[4:] == [small.sha256] * 2


def test_what_is_no_whole_image_is_refused(vision_model_path: Path, make_image: MakeImage) -> None:
    processor = load_image_processor(vision_model_path)
    with pytest.raises(PolicyInputError, match="is refused: the bytes are no PNG"):
        process_image(processor, b"not an image", "")
    with pytest.raises(PolicyInputError, match="is refused: the PNG is cut off"):
        process_image(processor, make_image(64, 64, 1)[:200], "")
    damaged = make_image(64, 64, 1).replace(b"IDAT", b"IDAT\xff\xff\xff", 1)
    with pytest.raises(PolicyInputError, match=r"image is (damaged|refused)"):
        process_image(processor, damaged, "")
    with pytest.raises(PolicyInputError, match="64 x 64 pixels is too large, 4095 are allowed"):
        process_image(processor, make_image(64, 64, 1), "", max_pixels=4095)
    with pytest.raises(PolicyInputError, match="an image of 1 x 900 pixels"):
        process_image(processor, make_image(1, 900, 1), "")


def test_a_folder_without_an_image_processor_is_refused(text_model_path: Path) -> None:
    with pytest.raises(UserError, match="has no image processor"):
        load_image_processor(text_model_path)

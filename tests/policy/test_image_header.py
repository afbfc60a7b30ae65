"""What an image would become is known from its header: bombs are refused before any memory is spent."""

import io
import random
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tristream.policy.image_header import FORMATS, MAX_IMAGE_PIXELS, ImageRefusedError, check_image

PICTURE = Image.frombytes("RGB", (64, 48), random.Random(1).randbytes(3 * 64 * 48))
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "png": ("PNG", {}),
    "jpeg": ("JPEG", {}),
    "progressive": ("JPEG", {"progressive": True}),
    "webp": ("WEBP", {}),
    "lossless": ("WEBP", {"lossless": True}),
    "gif": ("GIF", {}),
    "bmp": ("BMP", {}),
}


def encode(kind: str, picture: Image.Image = PICTURE, **options: Any) -> bytes:
    name, defaults = VARIANTS[kind]
    buffer = io.BytesIO()
    picture.save(buffer, name, **{**defaults, **options})
    return buffer.getvalue()


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(width: int, height: int, *extra: bytes, pixels: bytes = b"") -> bytes:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(extra) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def bomb() -> bytes:
    """A picture of 20,000 x 20,000 pixels that Pillow decodes, in 48 KB."""
    packer = zlib.compressobj(9)
    rows = b"".join(packer.compress(bytes(2501) * 200) for _ in range(100)) + packer.flush()
    return png(20_000, 20_000, pixels=rows)


def swollen_jpeg() -> bytes:
    data = encode("jpeg")
    place = data.index(b"\xff\xc0") + 5
    return data[:place] + struct.pack(">HH", 60_000, 60_000) + data[place + 4 :]


def swollen_webp() -> bytes:
    data = bytearray(encode("webp"))
    place = data.index(b"\x9d\x01\x2a") + 3
    data[place : place + 4] = struct.pack("<HH", 16_383, 16_383)
    return bytes(data)


def swollen_gif() -> bytes:
    """Its screen is small and its frame is not."""
    data = bytearray(encode("gif"))
    place = data.index(b",", 13 + 3 * 256) + 1
    data[place : place + 8] = struct.pack("<HHHH", 0, 0, 60_000, 60_000)
    return bytes(data)


def swollen_bmp() -> bytes:
    """Run-length encoded, so that its length says nothing."""
    header = struct.pack("<2sIHHI", b"BM", 200, 0, 0, 54) + struct.pack("<IiiHHI", 40, 40_000, 40_000, 1, 8, 1)
    return header + bytes(146)


def many_frames() -> bytes:
    frames = [Image.new("P", (1000, 1000), number % 7) for number in range(60)]
    return encode("gif", frames[0], save_all=True, append_images=frames[1:], disposal=2)


BOMBS: dict[str, Callable[[], bytes]] = {
    "png of 20000 x 20000": bomb,
    "png whose second header is large": lambda: png(
        8, 8, chunk(b"IHDR", struct.pack(">IIBBBBB", 20_000, 20_000, 1, 0, 0, 0, 0))
    ),
    "png of a million frames": lambda: png(64, 48, chunk(b"acTL", struct.pack(">II", 10**6, 0))),
    "png with texts": lambda: png(
        64, 48, *(chunk(b"zTXt", b"k\0\0" + zlib.compress(bytes(2**20 - 1), 9)) for _ in range(60))
    ),
    "png with a profile": lambda: png(64, 48, chunk(b"iCCP", b"k\0\0" + zlib.compress(bytes(2**28), 9))),
    "jpeg": swollen_jpeg,
    "webp": swollen_webp,
    "gif": swollen_gif,
    "gif of 60 frames": many_frames,
    "bmp": swollen_bmp,
    "tiff": lambda: b"II*\0" + bytes(100),
    "text": lambda: b"<svg xmlns='http://www.w3.org/2000/svg' width='1' height='1'/>",
    "nothing": lambda: b"",
}


@pytest.mark.parametrize(
    ("kind", "mode"),
    [
        (kind, mode)
        for kind, (name, _) in VARIANTS.items()
        for mode in ("RGB", "L", "P", "RGBA", "1")
        if name != "JPEG" or mode in ("RGB", "L", "1")
    ],
)
def test_the_size_is_the_one_that_pillow_decodes(kind: str, mode: str) -> None:
    data = encode(kind, PICTURE.convert(mode))
    assert check_image(data) == (64, 48)
    assert Image.open(io.BytesIO(data), formats=FORMATS).convert("RGB").size == (64, 48)


@pytest.mark.parametrize("kind", VARIANTS)
def test_a_file_that_is_cut_off_is_refused_wherever_pillow_cannot_read_it(kind: str) -> None:
    data, num_refused = encode(kind), 0
    for length in range(0, len(data), 41):
        try:
            check_image(data[:length])
        except ImageRefusedError:
            num_refused += 1
            continue
        Image.open(io.BytesIO(data[:length]), formats=FORMATS).convert("RGB")
    assert num_refused > len(data) // 50


@pytest.mark.parametrize("name", BOMBS)
def test_what_would_fill_the_memory_is_refused_in_words(name: str) -> None:
    with pytest.raises(ImageRefusedError, match=r"[a-z]+ [a-z]+"):
        check_image(BOMBS[name]())


def test_the_bound_counts_all_frames_together() -> None:
    assert check_image(many_frames(), max_pixels=60_000_000) == (1000, 1000)
    with pytest.raises(ImageRefusedError, match="1000 x 1000 pixels in 60 frames is too large, 50000000 are allowed"):
        check_image(many_frames(), MAX_IMAGE_PIXELS)


def test_random_bytes_behind_a_signature_are_refused_or_sized_and_nothing_else() -> None:
    rng, num_refused = random.Random(3), 0
    for kind in VARIANTS:
        data = encode(kind)
        for _ in range(300):
            broken = bytearray(data)
            for _ in range(rng.randint(1, 20)):
                broken[rng.randrange(len(broken))] = rng.randrange(256)
            try:
                width, height = check_image(bytes(broken[: rng.randint(1, len(broken))]))
            except ImageRefusedError:
                num_refused += 1
            else:
                assert width * height <= MAX_IMAGE_PIXELS
    assert num_refused > 500


def test_no_bomb_costs_memory_and_no_torch_is_needed(tmp_path: Path) -> None:
    for number, make in enumerate(BOMBS.values()):
        (tmp_path / str(number)).write_bytes(make())
    program = """
import resource, sys
from pathlib import Path
from tristream.policy.image_header import ImageRefusedError, check_image
images = [path.read_bytes() for path in Path(sys.argv[1]).iterdir()]
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for data in images:
    try:
        check_image(data)
    except ImageRefusedError:
        continue
    sys.exit("a bomb was not refused")
assert "torch" not in sys.modules and "PIL" not in sys.modules
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 8 * 1024  # KiB

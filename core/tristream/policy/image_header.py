"""Whether an encoded image may be opened, from its header alone: no pixel is decoded and no memory is spent.

A file of a few kilobytes can promise billions of pixels, and what opens it then fills the memory of a part. So every
part asks here first, before an image library sees the bytes; a size that is refused here is refused everywhere.
"""

from collections.abc import Callable

from tristream.policy.image_formats.base import Header, ImageRefusedError
from tristream.policy.image_formats.bmp import read_bmp
from tristream.policy.image_formats.gif import SIGNATURES as GIF_SIGNATURES
from tristream.policy.image_formats.gif import read_gif
from tristream.policy.image_formats.jpeg import SIGNATURE as JPEG_SIGNATURE
from tristream.policy.image_formats.jpeg import read_jpeg
from tristream.policy.image_formats.png import SIGNATURE as PNG_SIGNATURE
from tristream.policy.image_formats.png import read_png
from tristream.policy.image_formats.webp import read_webp

__all__ = ["FORMATS", "MAX_IMAGE_PIXELS", "ImageRefusedError", "check_image"]

MAX_IMAGE_PIXELS = 50_000_000
"""Most pixels of an image, all frames together, where no setting is at hand."""
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP")
"""Names, as Pillow has them, of the formats that are read."""


def check_image(data: bytes, max_pixels: int = MAX_IMAGE_PIXELS) -> tuple[int, int]:
    """Width and height of an encoded image that may be opened.

    Args:
        data: the encoded image.
        max_pixels: most pixels, all frames of an animation together.

    Raises:
        ImageRefusedError: the bytes are none of the formats that are read, or cut off, or would become too many
            pixels.

    Example:
        >>> check_image(b"GIF89a" + bytes([2, 0, 3, 0, 0, 0, 0]) + b"," + bytes([0, 0, 0, 0, 2, 0, 3, 0, 0, 2, 0]))
        (2, 3)
    """
    header = _reader_of(data)(data)
    width, height, num_frames = header.width, header.height, header.num_frames
    if width < 1 or height < 1:
        raise ImageRefusedError(f"an image of {width} x {height} pixels has none")
    if width * height * num_frames > max_pixels:
        frames = f" in {num_frames} frames" if num_frames > 1 else ""
        raise ImageRefusedError(f"an image of {width} x {height} pixels{frames} is too large, {max_pixels} are allowed")
    return width, height


def _reader_of(data: bytes) -> Callable[[bytes], Header]:
    if data.startswith(PNG_SIGNATURE):
        return read_png
    if data.startswith(JPEG_SIGNATURE):
        return read_jpeg
    if data.startswith(GIF_SIGNATURES):
        return read_gif
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return read_webp
    if data.startswith(b"BM"):
        return read_bmp
    if not data:
        raise ImageRefusedError("there are no bytes")
    raise ImageRefusedError("the bytes are no PNG, JPEG, WebP, GIF or BMP")

"""WebP, animated or not: chunks of a RIFF file."""

import struct

from tristream.policy.image_formats.base import Blocks, Header, ImageRefusedError

KEY_FRAME = b"\x9d\x01\x2a"


def read_webp(data: bytes) -> Header:
    """The size of the canvas, and the number of frames that are drawn on it.

    Raises:
        ImageRefusedError: the file is cut off, or holds no frame.
    """
    blocks, canvas, num_frames = Blocks(data, "WebP"), None, 0
    blocks.skip(4)
    end = 8 + int.from_bytes(blocks.read(4), "little")
    if end > len(data):
        raise ImageRefusedError("the WebP is cut off")
    blocks.skip(4)
    while blocks.position < end:
        kind, length = struct.unpack("<4sI", blocks.read(8))
        start = blocks.position
        blocks.skip(length)
        content = data[start : start + 10]
        if canvas is None:
            canvas = _canvas(kind, content)
        num_frames += kind in (b"VP8 ", b"VP8L", b"ANMF")
        blocks.position += length % 2
    if canvas is None or num_frames == 0:
        raise ImageRefusedError("the WebP holds no frame")
    return Header(width=canvas[0], height=canvas[1], num_frames=num_frames)


def _canvas(kind: bytes, content: bytes) -> tuple[int, int]:
    """Width and height, in the first chunk of a file."""
    if kind == b"VP8X" and len(content) == 10:
        return int.from_bytes(content[4:7], "little") + 1, int.from_bytes(content[7:10], "little") + 1
    if kind == b"VP8 " and content[3:6] == KEY_FRAME and len(content) == 10:
        width, height = struct.unpack("<HH", content[6:10])
        return width & 0x3FFF, height & 0x3FFF
    if kind == b"VP8L" and content[:1] == b"\x2f" and len(content) >= 5:
        bits = int.from_bytes(content[1:5], "little")
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    raise ImageRefusedError("the WebP has a damaged header")

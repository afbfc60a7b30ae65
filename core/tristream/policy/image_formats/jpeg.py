"""JPEG: a chain of segments, the size in the frame header."""

import struct

from tristream.policy.image_formats.base import Blocks, Header, ImageRefusedError

SIGNATURE = b"\xff\xd8\xff"
START_OF_FRAME = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
STANDALONE = frozenset({0x00, 0x01, 0xC8, *range(0xD0, 0xD9), *range(0xF0, 0xFE)})
"""Markers that nothing follows."""
START_OF_SCAN = 0xDA
END_OF_IMAGE = 0xD9


def read_jpeg(data: bytes) -> Header:
    """The size, from the segments before the pixels.

    Raises:
        ImageRefusedError: the file is cut off, or has no frame header or two.
    """
    blocks, header = Blocks(data, "JPEG"), None
    blocks.skip(2)
    while (marker := _next_marker(blocks)) != START_OF_SCAN:
        if marker == END_OF_IMAGE:
            raise ImageRefusedError("the JPEG has no pixels")
        if marker in STANDALONE:
            continue
        length = int.from_bytes(blocks.read(2), "big")
        content = blocks.read(max(0, length - 2))
        if marker in START_OF_FRAME:
            if header is not None:
                raise ImageRefusedError("the JPEG has two frame headers")
            header = _frame_header(content)
    if header is None:
        raise ImageRefusedError("the JPEG has no frame header")
    if data.find(b"\xff\xd9", blocks.position) < 0:
        raise ImageRefusedError("the JPEG is cut off")
    return header


def _next_marker(blocks: Blocks) -> int:
    """The next marker; what lies between two segments is passed over."""
    byte = blocks.read(1)
    while byte != b"\xff":
        byte = blocks.read(1)
    while byte == b"\xff":
        byte = blocks.read(1)
    return byte[0]


def _frame_header(content: bytes) -> Header:
    if len(content) < 6:
        raise ImageRefusedError("the JPEG has a damaged frame header")
    _precision, height, width = struct.unpack(">BHH", content[:5])
    return Header(width=width, height=height)

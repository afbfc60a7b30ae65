"""PNG, animated or not: a chain of chunks, the size in the first one."""

import struct
import zlib

from tristream.policy.image_formats.base import Blocks, Header, ImageRefusedError

SIGNATURE = b"\x89PNG\r\n\x1a\n"
MAX_METADATA_BYTES = 2**20
"""Most bytes that the compressed texts and the colour profile of a file may become."""


def read_png(data: bytes) -> Header:
    """The size, from a walk over all chunks.

    Raises:
        ImageRefusedError: the file is cut off, has two headers, or metadata that would fill the memory.
    """
    blocks, header, num_frames = Blocks(data, "PNG"), None, 1
    blocks.skip(len(SIGNATURE))
    room_bytes, has_pixels = MAX_METADATA_BYTES, False
    while not blocks.is_at_end:
        length, kind = struct.unpack(">I4s", blocks.read(8))
        start = blocks.position
        if (kind == b"IHDR") == (header is not None):
            raise ImageRefusedError("the PNG has no header, or two")
        blocks.skip(length + 4)
        content = memoryview(data)[start : start + length]
        if kind == b"IHDR":
            header = _size(content)
        elif kind == b"acTL" and length >= 4:
            num_frames = max(1, int.from_bytes(content[:4], "big"))
        elif kind in (b"zTXt", b"iTXt", b"iCCP"):
            room_bytes -= _inflated_bytes(kind, content, room_bytes)
        has_pixels = has_pixels or kind == b"IDAT"
        if kind == b"IEND":
            break
    if header is None or not has_pixels:
        raise ImageRefusedError("the PNG is cut off")
    width, height = header
    return Header(width=width, height=height, num_frames=num_frames)


def _size(content: memoryview) -> tuple[int, int]:
    if len(content) != 13:
        raise ImageRefusedError("the PNG has a damaged header")
    width, height = struct.unpack(">II", content[:8])
    return int(width), int(height)


def _inflated_bytes(kind: bytes, content: memoryview, room_bytes: int) -> int:
    """How many bytes a chunk becomes; it is inflated no further than there is room."""
    compressed = _compressed_part(kind, bytes(content))
    if compressed is None:
        return 0
    try:
        num_bytes = len(zlib.decompressobj().decompress(compressed, room_bytes + 1))
    except zlib.error:
        return 0
    if num_bytes > room_bytes:
        raise ImageRefusedError(f"the PNG has metadata of more than {MAX_METADATA_BYTES} bytes")
    return num_bytes


def _compressed_part(kind: bytes, content: bytes) -> bytes | None:
    """What follows the keyword of a chunk, if it is compressed."""
    _keyword, _, rest = content.partition(b"\0")
    if kind != b"iTXt":
        return rest[1:]
    if rest[:1] != b"\1":
        return None
    return rest[2:].partition(b"\0")[2].partition(b"\0")[2]

"""GIF, animated or not: the screen, then its frames, each of which may be larger than the screen says."""

import struct

from tristream.policy.image_formats.base import Blocks, Header, ImageRefusedError

SIGNATURES = (b"GIF87a", b"GIF89a")


def read_gif(data: bytes) -> Header:
    """The size that all frames need, and their number.

    Raises:
        ImageRefusedError: the file is cut off, or holds no frame.
    """
    blocks, num_frames = Blocks(data, "GIF"), 0
    blocks.skip(6)
    width, height, flags = struct.unpack("<HHB2x", blocks.read(7))
    blocks.skip(_num_colour_bytes(flags))
    while not blocks.is_at_end and (kind := blocks.read(1)) != b";":
        if kind == b"!":
            blocks.skip(1)
            _skip_sub_blocks(blocks)
        elif kind == b",":
            left, top, frame_width, frame_height, flags = struct.unpack("<HHHHB", blocks.read(9))
            blocks.skip(_num_colour_bytes(flags) + 1)
            _skip_sub_blocks(blocks)
            width, height = max(width, left + frame_width), max(height, top + frame_height)
            num_frames += 1
    if num_frames == 0:
        raise ImageRefusedError("the GIF holds no frame")
    return Header(width=width, height=height, num_frames=num_frames)


def _num_colour_bytes(flags: int) -> int:
    return 3 << (flags & 7) + 1 if flags & 0x80 else 0


def _skip_sub_blocks(blocks: Blocks) -> None:
    while length := blocks.read(1)[0]:
        blocks.skip(length)

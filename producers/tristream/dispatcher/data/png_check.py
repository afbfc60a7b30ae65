"""Whether a PNG is whole: by the checksums of its chunks, and of a small one by what its pixels inflate to.

A chunk that was damaged has another checksum. The pixels are inflated piece by piece, so that memory stays small.
"""

import zlib

from tristream.policy.image_header import ImageRefusedError

SIGNATURE = b"\x89PNG\r\n\x1a\n"
MOST_PIXELS_INFLATED = 2**18
"""Larger images are checked by their checksums alone, which takes a tenth of the time."""
PIECE_BYTES = 2**16
CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
"""Values of a pixel, by colour type."""


def check_png(data: bytes, num_pixels: int) -> None:
    """Check a PNG; other images pass.

    Args:
        data: the encoded image, of which the header was checked.
        num_pixels: as the header says.

    Raises:
        ImageRefusedError: a chunk is damaged, or the pixels are not all there.
    """
    if not data.startswith(SIGNATURE):
        return
    view, position, pixels, header = memoryview(data), len(SIGNATURE), [], b""
    while position + 12 <= len(data):
        length = int.from_bytes(view[position : position + 4], "big")
        kind = bytes(view[position + 4 : position + 8])
        end = position + 8 + length
        # As image libraries do, chunks with a small first letter may be damaged: nothing depends on them.
        if not kind[0] & 0x20 and zlib.crc32(view[position + 4 : end]) != int.from_bytes(view[end : end + 4], "big"):
            raise ImageRefusedError(f"the PNG is damaged in its chunk {kind.decode('ascii', 'replace')}")
        if kind == b"IHDR":
            header = bytes(view[position + 8 : end])
        elif kind == b"IDAT":
            pixels.append(view[position + 8 : end])
        elif kind == b"IEND":
            break
        position = end + 4
    if num_pixels <= MOST_PIXELS_INFLATED:
        _check_pixels(pixels, _least_bytes(header))


def _least_bytes(header: bytes) -> int:
    """Bytes that the pixels have at least; interlaced images have a few more."""
    width, height = int.from_bytes(header[:4], "big"), int.from_bytes(header[4:8], "big")
    num_bits, colour_type = header[8], header[9]
    return height * (width * num_bits * CHANNELS.get(colour_type, 1) // 8)


def _check_pixels(pixels: list[memoryview], least_bytes: int) -> None:
    inflater, num_bytes = zlib.decompressobj(), 0
    try:
        for chunk in pixels:
            rest: bytes | memoryview = chunk
            while rest and num_bytes < least_bytes:
                num_bytes += len(inflater.decompress(rest, PIECE_BYTES))
                rest = inflater.unconsumed_tail
    except zlib.error as error:
        raise ImageRefusedError(f"the pixels of the PNG are damaged ({error})") from None
    if num_bytes < least_bytes:
        raise ImageRefusedError("the pixels of the PNG are not all there")

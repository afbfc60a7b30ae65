"""BMP: a header with the size, then rows of pixels, packed or run-length encoded."""

import struct

from tristream.policy.image_formats.base import Blocks, Header, ImageRefusedError

CORE_HEADER_BYTES = 12
RUN_LENGTH_ENCODED = (1, 2)
PLAIN = (0, 3, 6)
"""Values of the header's compression field whose rows are as long as they are wide."""


def read_bmp(data: bytes) -> Header:
    """The size; rows of pixels have to be all there.

    Raises:
        ImageRefusedError: the file is cut off, or compressed in a way that is not read.
    """
    blocks = Blocks(data, "BMP")
    first_pixel, num_header_bytes = struct.unpack("<10xII", blocks.read(18))
    if num_header_bytes == CORE_HEADER_BYTES:
        width, height, _planes, num_bits = struct.unpack("<HHHH", blocks.read(8))
        compression = 0
    elif num_header_bytes >= 40:
        width, height, _planes, num_bits, compression = struct.unpack("<iiHHI", blocks.read(16))
        height = abs(height)  # negative where the first row is the top one
    else:
        raise ImageRefusedError("the BMP has a damaged header")
    if compression not in (*PLAIN, *RUN_LENGTH_ENCODED):
        raise ImageRefusedError("the BMP is compressed in a way that is not read")
    num_row_bytes = (width * num_bits + 31) // 32 * 4
    if compression in PLAIN and first_pixel + num_row_bytes * height > len(data):
        raise ImageRefusedError("the BMP is cut off")
    return Header(width=width, height=height)

"""Rows of the digits example some of which would end a part that took them."""

import struct
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

DIGITS = Path(__file__).parents[2] / "examples/digits/data/train_digits_read.parquet"
POISONED_ROWS = [3, 7, 11, 20, 21, 33]


def write_poisoned_rows(path: Path) -> Path:
    """Rows of the example among which are three bombs, two images that cannot be decoded, and lone surrogates."""
    table = pq.read_table(DIGITS).slice(0, 40)
    rows: list[dict[str, Any]] = table.to_pylist()
    whole = rows[0]["images"][0]["bytes"]
    pictures = {
        3: b"GIF89a" + struct.pack("<HHBBB", 60_000, 60_000, 0, 0, 0) + b"," + bytes(9) + b"\x02\x00;",
        7: b"\x89PNG\r\n\x1a\n" + struct.pack(">I4sIIBBBBB", 13, b"IHDR", 20_000, 20_000, 1, 0, 0, 0, 0) + bytes(99),
        11: b"BM" + struct.pack("<IIIIiiHHIIIIII", 54, 0, 54, 40, 50_000, 50_000, 1, 24, *[0] * 6),
        20: whole[: len(whole) // 2],
        21: b"\xff\xd8\xff" + bytes(500),
    }
    for number, data in pictures.items():
        rows[number]["images"][0]["bytes"] = data
    rows[33]["reward_model"]["ground_truth"] = "XXX"
    options = {"compression": "none", "use_dictionary": False, "write_statistics": False}
    pq.write_table(pa.Table.from_pylist(rows, schema=table.schema), path, **options)
    path.write_bytes(path.read_bytes().replace(b"XXX", b"\xed\xa0\x80"))
    return path

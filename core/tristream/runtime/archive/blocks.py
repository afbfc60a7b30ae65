"""The blocks of an archive file: records as they were on the log, packed, with a checksum.

    file:   block block block ...                        of one partition, offsets ascend
    block:  header, payload, payload length               the last one is found from the end of the file
    payload: record record ...                            compressed if that halves it, and it is worth trying

A block is whole or it does not count: whoever reads stops at one that is torn, or goes on at the next whole one.
"""

import struct
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from tristream.runtime.bus.protocol import Record

MAGIC = b"tsA1"
_HEADER = struct.Struct("<4sIIIBQQq")
"""Magic, checksum of all that follows, payload length, raw length, whether compressed, first and last offset, time."""
_LENGTH = struct.Struct("<I")
_RECORD = struct.Struct("<QqIII")
"""Offset, time, key length, value length, number of headers."""
_ENTRY = struct.Struct("<II")
"""Name and value length of a record's header."""
SAMPLE_BYTES = 4096
"""How much of a payload is compressed to see whether the whole is worth it."""
WORTHWHILE = 0.6
"""Largest share of its size that a compressed sample may have; token ids and log-probabilities stay above it."""
SCAN_BYTES = 2**20
"""How much is read at once in search of the next whole block."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """One whole block."""

    start: int
    """Where it is in its file."""
    end: int
    first_offset: int
    last_offset: int
    first_timestamp_ns: int
    payload: bytes
    """Packed records, not compressed."""


def pack_record(record: Record[bytes]) -> bytes:
    """A record without topic and partition, which its file has in common."""
    key = record.key.encode(errors="surrogatepass")
    parts = [
        _RECORD.pack(record.offset, record.timestamp_ns, len(key), len(record.event), len(record.headers)),
        key,
        record.event,
    ]
    for name, value in record.headers.items():
        encoded = name.encode(errors="surrogatepass")
        parts += (_ENTRY.pack(len(encoded), len(value)), encoded, value)
    return b"".join(parts)


def unpack_records(payload: bytes, topic: str, partition: int) -> Iterator[Record[bytes]]:
    """The records of a block."""
    position = 0
    while position < len(payload):
        offset, timestamp_ns, key_length, value_length, num_headers = _RECORD.unpack_from(payload, position)
        position += _RECORD.size
        key = payload[position : position + key_length]
        position += key_length
        value = payload[position : position + value_length]
        position += value_length
        headers: dict[str, bytes] = {}
        for _ in range(num_headers):
            name_length, length = _ENTRY.unpack_from(payload, position)
            position += _ENTRY.size
            name = payload[position : position + name_length].decode(errors="surrogatepass")
            position += name_length
            headers[name] = payload[position : position + length]
            position += length
        yield Record(
            topic=topic,
            partition=partition,
            offset=offset,
            key=key.decode(errors="surrogatepass"),
            event=value,
            headers=headers,
            timestamp_ns=timestamp_ns,
        )


def pack_block(packed: Sequence[bytes], first_offset: int, last_offset: int, first_timestamp_ns: int) -> bytes:
    """A block of packed records."""
    raw = b"".join(packed)
    sample = raw[:SAMPLE_BYTES]
    is_compressed = len(zlib.compress(sample, 1)) <= WORTHWHILE * len(sample)
    payload = zlib.compress(raw, 1) if is_compressed else raw
    header = _HEADER.pack(
        MAGIC, 0, len(payload), len(raw), is_compressed, first_offset, last_offset, first_timestamp_ns
    )
    checksum = zlib.crc32(payload, zlib.crc32(header[8:]))
    return b"".join((MAGIC, checksum.to_bytes(4, "little"), header[8:], payload, _LENGTH.pack(len(payload))))


def read_block(file: BinaryIO, start: int) -> Block | None:
    """The block at a position; None if there is no whole one."""
    file.seek(start)
    header = file.read(_HEADER.size)
    if len(header) < _HEADER.size or not header.startswith(MAGIC):
        return None
    _, checksum, length, raw_length, is_compressed, first_offset, last_offset, timestamp_ns = _HEADER.unpack(header)
    rest = file.read(length + _LENGTH.size)
    payload = rest[:length]
    if rest[length:] != _LENGTH.pack(length) or zlib.crc32(payload, zlib.crc32(header[8:])) != checksum:
        return None
    raw = zlib.decompress(payload, bufsize=max(1, raw_length)) if is_compressed else payload
    return Block(
        start=start,
        end=start + len(header) + len(rest),
        first_offset=first_offset,
        last_offset=last_offset,
        first_timestamp_ns=timestamp_ns,
        payload=raw,
    )


def read_blocks(path: Path, from_offset: int = 0) -> Iterator[Block]:
    """The whole blocks of a file that hold offsets from ``from_offset`` on; what is torn between them is left out."""
    with path.open("rb") as file:
        position = 0
        while True:
            length = _skippable_length(file, position, from_offset)
            if length:
                position += length
                continue
            block = read_block(file, position)
            if block is None:
                found = _find_block(file, position + 1)
                if found is None:
                    return
                position = found
                continue
            if block.last_offset >= from_offset:
                yield block
            position = block.end


def find_last_block(path: Path) -> Block | None:
    """The last whole block of a file, or None without one."""
    with path.open("rb") as file:
        size = file.seek(0, 2)
        if size >= _HEADER.size + _LENGTH.size:
            file.seek(size - _LENGTH.size)
            (length,) = _LENGTH.unpack(file.read(_LENGTH.size))
            start = size - _LENGTH.size - length - _HEADER.size
            block = read_block(file, start) if start >= 0 else None
            if block is not None and block.end == size:
                return block
    last = None
    for last in read_blocks(path):  # noqa: B007 - only the last one is wanted
        pass
    return last


def _skippable_length(file: BinaryIO, position: int, from_offset: int) -> int:
    """Length of the block at a position if all of it lies before an offset; 0 if it has to be read."""
    if from_offset <= 0:
        return 0
    file.seek(position)
    header = file.read(_HEADER.size)
    if len(header) < _HEADER.size or not header.startswith(MAGIC):
        return 0
    length, last_offset = _HEADER.unpack(header)[2], _HEADER.unpack(header)[6]
    if last_offset >= from_offset:
        return 0
    file.seek(position + _HEADER.size + length)
    return _HEADER.size + length + _LENGTH.size if file.read(_LENGTH.size) == _LENGTH.pack(length) else 0


def _find_block(file: BinaryIO, start: int) -> int | None:
    """Where the next whole block begins."""
    overlap = len(MAGIC) - 1
    while True:
        file.seek(start)
        data = file.read(SCAN_BYTES)
        found = data.find(MAGIC)
        while found >= 0:
            if read_block(file, start + found) is not None:
                return start + found
            found = data.find(MAGIC, found + 1)
        if len(data) < SCAN_BYTES:
            return None
        start += len(data) - overlap

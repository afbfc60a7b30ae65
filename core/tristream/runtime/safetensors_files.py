"""Files of safetensors, split and joined byte by byte: no tensor is decoded, and little memory is needed.

The format: eight bytes with the length of a JSON header, the header (name to ``dtype``, ``shape`` and
``data_offsets``), the data. Shards and their index are named as transformers and vLLM read them.
"""

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SINGLE_NAME = "model.safetensors"
INDEX_NAME = "model.safetensors.index.json"
METADATA = "__metadata__"
LENGTH_BYTES = 8
ALIGNMENT_BYTES = 8
"""The data begins at a multiple of this."""
COPY_BYTES = 16 * 2**20

DTYPES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}
"""Names of floating-point types, as safetensors and as configurations call them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """What a file says of its tensors."""

    tensors: Mapping[str, Mapping[str, Any]]
    data_start: int
    """Where the data begins in the file."""

    @property
    def dtype(self) -> str:
        """Floating-point type of most of the data, as configurations call it; empty if none is known."""
        sizes: dict[str, int] = {}
        for entry in self.tensors.values():
            sizes[entry["dtype"]] = sizes.get(entry["dtype"], 0) + size_of(entry)
        known = {name: size for name, size in sizes.items() if name in DTYPES}
        return DTYPES[max(known, key=lambda name: known[name])] if known else ""


def read_header(path: Path) -> Header:
    """The header of a file.

    Raises:
        ValueError: it is no file of safetensors.
    """
    with path.open("rb") as file:
        length = int.from_bytes(file.read(LENGTH_BYTES), "little")
        if not 0 < length < path.stat().st_size:
            raise ValueError(f"{path.name} has no header of safetensors")
        tensors = json.loads(file.read(length))
    if not isinstance(tensors, dict):
        raise ValueError(f"{path.name} has no header of safetensors")
    tensors.pop(METADATA, None)
    return Header(tensors=tensors, data_start=LENGTH_BYTES + length)


def encode_header(tensors: Mapping[str, Mapping[str, Any]]) -> bytes:
    """What a file with these tensors begins with, before their data."""
    text = json.dumps({METADATA: {"format": "pt"}, **tensors}, separators=(",", ":")).encode()
    text += b" " * (-len(text) % ALIGNMENT_BYTES)
    return len(text).to_bytes(LENGTH_BYTES, "little") + text


def size_of(entry: Mapping[str, Any]) -> int:
    """Bytes of a tensor."""
    start, end = entry["data_offsets"]
    return int(end - start)


def split_names(header: Header, max_shard_bytes: int) -> list[list[str]]:
    """Names of the tensors of each shard, in the order of the file; a larger tensor is a shard of its own."""
    shards: list[list[str]] = []
    size = max_shard_bytes + 1
    for name in sorted(header.tensors, key=lambda name: header.tensors[name]["data_offsets"]):
        size += size_of(header.tensors[name])
        if size > max_shard_bytes:
            shards.append([])
            size = size_of(header.tensors[name])
        shards[-1].append(name)
    return shards


def write_shards(source: Path, folder: Path, *, max_shard_bytes: int) -> list[str]:
    """Write the tensors of a file into a folder, as one file or as shards with an index; returns the files' names.

    Raises:
        ValueError: the source is no file of safetensors.
        OSError: the folder cannot be written.
    """
    header = read_header(source)
    shards = split_names(header, max_shard_bytes)
    if len(shards) <= 1:
        shutil.copyfile(source, folder / SINGLE_NAME)
        return [SINGLE_NAME]
    files = [f"model-{number:05d}-of-{len(shards):05d}.safetensors" for number in range(1, len(shards) + 1)]
    for file, names in zip(files, shards, strict=True):
        _write_shard(source, header, names, folder / file)
    index = {
        "metadata": {"total_size": sum(map(size_of, header.tensors.values()))},
        "weight_map": {name: file for file, names in zip(files, shards, strict=True) for name in names},
    }
    (folder / INDEX_NAME).write_text(json.dumps(index, indent=2, sort_keys=True), encoding="utf-8")
    return [*files, INDEX_NAME]


def _write_shard(source: Path, header: Header, names: Sequence[str], target: Path) -> None:
    entries: dict[str, Mapping[str, Any]] = {}
    end = 0
    for name in names:
        start, end = end, end + size_of(header.tensors[name])
        entries[name] = {**header.tensors[name], "data_offsets": [start, end]}
    with source.open("rb") as read, target.open("wb") as written:
        written.write(encode_header(entries))
        for name in names:
            read.seek(header.data_start + header.tensors[name]["data_offsets"][0])
            left = size_of(header.tensors[name])
            while left:
                chunk = read.read(min(COPY_BYTES, left))
                if not chunk:
                    raise ValueError("the file ends within a tensor")
                written.write(chunk)
                left -= len(chunk)

"""The weights of a checkpoint folder as one safetensors file, as engines take them.

A large checkpoint has several files. They are put together byte by byte: a safetensors file is the length of its
header, the header with the place of each tensor, and the tensors.
"""

import json
import shutil
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tristream.runtime.errors import UserError

LENGTH = struct.Struct("<Q")
METADATA = "__metadata__"
MOST_HEADER_BYTES = 2**28


def find_weights(model_path: Path, folder: Path) -> Path:
    """The one file of a checkpoint, or one that is put together from its several in ``folder``.

    Raises:
        UserError: it has none, or they are damaged, or the folder has no room.
    """
    shards = sorted(model_path.glob("*.safetensors"))
    if len(shards) == 1:
        return shards[0]
    if not shards:
        raise UserError(
            "has no *.safetensors", where=f"[model] path = {model_path}", remedy="save the checkpoint as safetensors"
        )
    path = folder / "model.safetensors"
    try:
        join_weights(shards, path)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, struct.error) as error:
        raise UserError(
            f"its files cannot be put together in {folder} ({error})",
            where=f"[model] path = {model_path}",
            remedy="free space, set TMPDIR to a folder with room, or save the checkpoint again",
        ) from None
    return path


def join_weights(shards: Sequence[Path], path: Path) -> None:
    """Write one safetensors file with the tensors of several.

    Raises:
        OSError: a file cannot be read or written.
        ValueError: a file is no safetensors file, or two have a tensor of the same name.
    """
    header: dict[str, Any] = {METADATA: {"format": "pt"}}
    start = 0
    for shard in shards:
        own, begin = _read_header(shard)
        for name, tensor in own.items():
            if name in header:
                raise ValueError(f"two files have a tensor '{name}'")
            first, last = tensor["data_offsets"]
            header[name] = {**tensor, "data_offsets": [first + start, last + start]}
        start += shard.stat().st_size - begin
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as joined:
        joined.write(LENGTH.pack(len(text)) + text)
        for shard in shards:
            with shard.open("rb") as file:
                file.seek(_read_header(shard)[1])
                shutil.copyfileobj(file, joined, 2**20)


def _read_header(path: Path) -> tuple[Mapping[str, Any], int]:
    """The tensors of a file by name, and where their bytes begin."""
    with path.open("rb") as file:
        (size,) = LENGTH.unpack(file.read(LENGTH.size))
        if size > MOST_HEADER_BYTES:
            raise ValueError(f"{path.name} is no safetensors file")
        header = json.loads(file.read(size))
    header.pop(METADATA, None)
    return header, LENGTH.size + size

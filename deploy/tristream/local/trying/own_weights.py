"""The weights of a checkpoint folder as one safetensors file, as engines take them.

A large checkpoint has several files. They are put together byte by byte.
"""

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tristream.runtime.errors import UserError
from tristream.runtime.safetensors_files import encode_header, read_header


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
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
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
    tensors: dict[str, Mapping[str, Any]] = {}
    data_starts: list[int] = []
    start = 0
    for shard in shards:
        header = read_header(shard)
        for name, tensor in header.tensors.items():
            if name in tensors:
                raise ValueError(f"two files have a tensor '{name}'")
            first, last = tensor["data_offsets"]
            tensors[name] = {**tensor, "data_offsets": [first + start, last + start]}
        data_starts.append(header.data_start)
        start += shard.stat().st_size - header.data_start
    with path.open("wb") as joined:
        joined.write(encode_header(tensors))
        for shard, data_start in zip(shards, data_starts, strict=True):
            with shard.open("rb") as file:
                file.seek(data_start)
                shutil.copyfileobj(file, joined, 2**20)

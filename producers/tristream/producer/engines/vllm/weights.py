"""Weights of a file as vLLM reloads them: a folder like a checkpoint's, once they are known to be those of the model.

vLLM takes what it finds under the names that it knows and leaves the rest as it is, so names, shapes and length are
compared before.
"""

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

HEADER_BYTES = 8
MAX_HEADER_BYTES = 100_000_000
TIED_HEAD = "lm_head.weight"

Shapes = Mapping[str, tuple[int, ...]]


def read_shapes(path: Path) -> Shapes:
    """Names and shapes in a safetensors file, from its header.

    Raises:
        ValueError: it is no whole safetensors file.
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        num_bytes = int.from_bytes(file.read(HEADER_BYTES), "little")
        if num_bytes > min(MAX_HEADER_BYTES, path.stat().st_size - HEADER_BYTES):
            raise ValueError(f"{path} is no safetensors file")
        try:
            header: dict[str, Any] = json.loads(file.read(num_bytes))
            entries = {name: entry for name, entry in header.items() if name != "__metadata__"}
            shapes = {name: tuple(entry["shape"]) for name, entry in entries.items()}
            end = max((entry["data_offsets"][1] for entry in entries.values()), default=0)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{path} is no safetensors file ({error})") from None
    if path.stat().st_size != HEADER_BYTES + num_bytes + end:
        raise ValueError(f"{path} is cut off")
    return shapes


def checkpoint_shapes(folder: Path) -> Shapes | None:
    """Names and shapes of a checkpoint; None if it is not in safetensors files.

    Raises:
        ValueError: one of its files is none.
        OSError: one cannot be read.
    """
    files = sorted(folder.glob("*.safetensors"))
    return {name: shape for path in files for name, shape in read_shapes(path).items()} or None


def require_weights_of(model: Shapes, weights: Shapes, path: Path, *, is_head_tied: bool) -> None:
    """Check that a file has the weights of a model, all of them and no others.

    Raises:
        ValueError: it has not.
    """
    wanted, given = _comparable(model, is_head_tied), _comparable(weights, is_head_tied)
    missing, unknown = sorted(set(wanted) - set(given)), sorted(set(given) - set(wanted))
    if missing or unknown:
        raise ValueError(f"{path} lacks {missing[:3]} and has unknown {unknown[:3]}")
    other = sorted(name for name, shape in wanted.items() if given[name] != shape)
    if other:
        raise ValueError(f"{path} has {other[0]} of shape {given[other[0]]} and not {wanted[other[0]]}")


def _comparable(shapes: Shapes, is_head_tied: bool) -> dict[str, tuple[int, ...]]:
    """By names without the prefixes in which files of one model differ, and without a tied head."""
    return {
        name.replace("model.visual.", "visual.").replace("model.language_model.", "model."): shape
        for name, shape in shapes.items()
        if not (is_head_tied and name == TIED_HEAD)
    }


class CheckpointFolder:
    """A folder with the newest weights under the name that checkpoints have."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="tristream-weights-")

    def link(self, weights: Path) -> Path:
        """Put weights in place of the ones before; returns the folder.

        Raises:
            OSError: the temporary folder cannot be written.
        """
        folder = Path(self._folder.name)
        link = folder / "model.safetensors"
        link.unlink(missing_ok=True)
        link.symlink_to(weights.resolve())
        return folder

    def close(self) -> None:
        """Remove it."""
        self._folder.cleanup()

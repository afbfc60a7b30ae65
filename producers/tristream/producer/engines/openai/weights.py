"""Weights where servers find them: a folder with one file, which is a link to those that were fetched.

    STORE/weights/7/0-ab12.safetensors
    STORE/weights/.servers-INSTANCE/3/model.safetensors -> ../../7/0-ab12.safetensors

The link is relative, so that servers may see ``STORE/weights`` under another path.
"""

import os
import shutil
import uuid
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError, safe_open

from tristream.runtime.errors import UserError

SHOWN_NAMES = 3
TIED_PREFIX = "lm_head."
"""Parameters that may be those of the embedding, and are not in a file then."""


class WeightsFolders:
    """Makes the folders of one engine and removes them."""

    def __init__(self, seen_at: Path | None) -> None:
        """Take where servers see the folder above the one that weights are in; None: under the same path."""
        self._seen_at = seen_at
        self._name = f".servers-{uuid.uuid4().hex[:12]}"
        self._made: dict[int, Path] = {}

    def make(self, number: int, weights: Path) -> str:
        """Make a folder for weights and return its path as servers see it.

        Raises:
            UserError: no folder can be made there.
        """
        weights = weights.resolve()
        top = weights.parent.parent
        folder = top / self._name / str(number)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "model.safetensors").symlink_to(os.path.relpath(weights, folder))
        except OSError as error:
            raise UserError(
                f"no folder for the servers can be made beside the weights ({error})",
                where=str(folder),
                remedy="let the producer write there",
            ) from None
        self._made[number] = folder
        return str(folder if self._seen_at is None else self._seen_at / folder.relative_to(top))

    def remove_before(self, number: int) -> None:
        """Remove the folders of earlier numbers."""
        for earlier in [made for made in self._made if made < number]:
            folder = self._made.pop(earlier)
            shutil.rmtree(folder, ignore_errors=True)
            try:
                folder.parent.rmdir()
            except OSError:
                pass  # others are in it


def weights_shapes(folder: Path) -> Mapping[str, tuple[int, ...]]:
    """Names and shapes of a checkpoint folder's parameters, from headers alone; none if it has no safetensors."""
    shapes: dict[str, tuple[int, ...]] = {}
    for path in sorted(folder.glob("*.safetensors")):
        shapes.update(_shapes(path))
    return shapes


def require_weights_of(expected: Mapping[str, tuple[int, ...]], path: Path) -> None:
    """Check that a file has the parameters of a checkpoint, but for a head that may be tied.

    Args:
        expected: what ``weights_shapes`` says of the checkpoint; nothing is checked against none.
        path: the file.

    Raises:
        ValueError: it has others, lacks some, or is no safetensors file.
    """
    try:
        shapes = _shapes(path)
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{path} is no safetensors file: {error}") from None
    if not expected:
        return
    missing = sorted(name for name in set(expected) - set(shapes) if not name.startswith(TIED_PREFIX))
    others = sorted(
        name
        for name, shape in shapes.items()
        if expected.get(name) != shape and (name in expected or not name.startswith(TIED_PREFIX))
    )
    if others or missing:
        raise ValueError(
            f"{path} lacks {missing[:SHOWN_NAMES]} and has unknown or other {others[:SHOWN_NAMES]}, of {len(missing)} "
            f"and {len(others)}"
        )


def _shapes(path: Path) -> dict[str, tuple[int, ...]]:
    with safe_open(path, framework="numpy") as file:
        return {_short(name): tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118


def _short(name: str) -> str:
    """A parameter's name without prefixes that Qwen2.5-VL has in some checkpoints and not in others."""
    for prefix, short in (("model.language_model.", "model."), ("model.visual.", "visual.")):
        if name.startswith(prefix):
            return f"{short}{name.removeprefix(prefix)}"
    return name

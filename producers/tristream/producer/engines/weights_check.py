"""Whether a file has the weights of a model: names and shapes are compared, and that the file is whole, by its header.

Engines of others take what they find under the names that they know and leave the rest as it is.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

TIED_HEAD = "lm_head.weight"

Shapes = Mapping[str, tuple[int, ...]]


def read_shapes(path: Path) -> Shapes:
    """Names and shapes in a safetensors file, from its header.

    Raises:
        ValueError: it is no whole safetensors file, or cannot be read.
    """
    try:
        with safe_open(path, framework="numpy") as file:
            return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{path} is no safetensors file, or is cut off ({error})") from None


def checkpoint_shapes(folder: Path) -> Shapes | None:
    """Names and shapes of a checkpoint; None if it is not in safetensors files.

    Raises:
        ValueError: one of its files is none, or cannot be read.
    """
    files = sorted(folder.glob("*.safetensors"))
    return {name: shape for path in files for name, shape in read_shapes(path).items()} or None


def is_head_tied(config: Any) -> bool:  # noqa: ANN401 - transformers has no type for it
    """Whether the head of a model is its embedding, so that files may lack it."""
    return bool(getattr(config.get_text_config(), "tie_word_embeddings", False))


def require_weights_of(model: Shapes | None, weights: Shapes, path: Path, *, is_head_tied: bool) -> None:
    """Check that a file has the weights of a model, all of them and no others.

    Args:
        model: of its checkpoint; nothing is checked against None.
        weights: of the file.
        path: the file, for people.
        is_head_tied: whether the file may lack the head.

    Raises:
        ValueError: it has not.
    """
    if model is None:
        return
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

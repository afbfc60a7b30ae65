"""Weights that vLLM is given are those of the model, all of them, or they are refused."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tristream.producer.engines.vllm.weights import CheckpointFolder
from tristream.producer.engines.weights_check import checkpoint_shapes, read_shapes, require_weights_of

SHAPES = {"model.embed.weight": (8, 4), "lm_head.weight": (8, 4)}


def test_shapes_of_a_checkpoint_are_read_from_its_headers(vision_model_path: Path) -> None:
    tensors = load_file(vision_model_path / "model.safetensors")
    shapes = checkpoint_shapes(vision_model_path)
    assert shapes == {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def test_a_checkpoint_of_other_files_is_not_known(tmp_path: Path) -> None:
    (tmp_path / "pytorch_model.bin").write_bytes(b"PK")
    assert checkpoint_shapes(tmp_path) is None


@pytest.mark.parametrize("num_bytes", [0, 5, 200, -1])
def test_a_file_that_is_cut_off_is_refused(tmp_path: Path, num_bytes: int) -> None:
    path = tmp_path / "weights.safetensors"
    save_file({name: torch.zeros(8, 4) for name in ("a" * 200, "b")}, path)
    path.write_bytes(path.read_bytes()[:num_bytes])
    with pytest.raises(ValueError, match=r"is no safetensors file|is cut off"):
        read_shapes(path)


def test_a_file_of_something_else_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    path.write_bytes((4).to_bytes(8, "little") + b"[{}]" + bytes(100))
    with pytest.raises(ValueError, match="is no safetensors file"):
        read_shapes(path)


@pytest.mark.parametrize(
    ("weights", "reason"),
    [
        ({"lm_head.weight": (8, 4)}, r"lacks \['model.embed.weight'\]"),
        ({**SHAPES, "model.more": (1,)}, r"has unknown \['model.more'\]"),
        ({**SHAPES, "model.embed.weight": (4, 8)}, r"model.embed.weight of shape \(4, 8\) and not \(8, 4\)"),
    ],
)
def test_weights_of_another_model_are_refused(weights: dict[str, tuple[int, ...]], reason: str) -> None:
    require_weights_of(SHAPES, SHAPES, Path("file"), is_head_tied=False)
    with pytest.raises(ValueError, match=reason):
        require_weights_of(SHAPES, weights, Path("file"), is_head_tied=False)


def test_a_tied_head_may_be_absent() -> None:
    weights = {"model.embed.weight": (8, 4)}
    require_weights_of(SHAPES, weights, Path("file"), is_head_tied=True)
    with pytest.raises(ValueError, match="lm_head"):
        require_weights_of(SHAPES, weights, Path("file"), is_head_tied=False)


def test_prefixes_in_which_checkpoints_of_a_model_differ_do_not_matter() -> None:
    on_disk = {"visual.a": (1,), "model.layers.0": (2,)}
    in_memory = {"model.visual.a": (1,), "model.language_model.layers.0": (2,)}
    require_weights_of(on_disk, in_memory, Path("file"), is_head_tied=False)


def test_a_folder_has_the_newest_weights_and_is_removed(tmp_path: Path) -> None:
    folder = CheckpointFolder()
    for name in ("one", "two"):
        (tmp_path / name).write_text(name)
        linked = folder.link(tmp_path / name)
        assert (linked / "model.safetensors").read_text() == name
    folder.close()
    assert not linked.exists()
    assert (tmp_path / "two").exists()

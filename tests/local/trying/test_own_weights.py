"""A checkpoint of several files is one file with the same tensors."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tristream.local.trying.own_weights import find_weights, join_weights
from tristream.runtime.errors import UserError


@pytest.fixture
def tensors() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    shapes = {"a": (3, 5), "b.weight": (7,), "c": (), "d": (2, 2, 2)}
    return {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()} | {
        "half": torch.ones(3, dtype=torch.bfloat16)
    }


def test_several_files_become_one_with_the_same_tensors(tensors: dict[str, torch.Tensor], tmp_path: Path) -> None:
    model, room = tmp_path / "model", tmp_path / "room"
    model.mkdir()
    room.mkdir()
    names = list(tensors)
    for number, part in enumerate((names[:2], names[2:3], names[3:])):
        save_file({name: tensors[name] for name in part}, model / f"model-{number}.safetensors", {"format": "pt"})
    found = load_file(find_weights(model, room))
    assert set(found) == set(tensors)
    assert all(torch.equal(found[name], tensors[name]) for name in tensors)


def test_the_only_file_of_a_checkpoint_is_taken_as_it_is(tensors: dict[str, torch.Tensor], tmp_path: Path) -> None:
    save_file(tensors, tmp_path / "model.safetensors")
    assert find_weights(tmp_path, tmp_path / "nowhere") == tmp_path / "model.safetensors"


def test_a_folder_without_weights_or_with_damaged_ones_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"has no \*\.safetensors; save the checkpoint as safetensors"):
        find_weights(tmp_path, tmp_path)
    for number, content in enumerate((b"", b"\xff" * 16)):
        (tmp_path / f"model-{number}.safetensors").write_bytes(content)
    with pytest.raises(UserError, match="cannot be put together"):
        find_weights(tmp_path, tmp_path)


def test_a_tensor_that_is_there_twice_is_refused(tensors: dict[str, torch.Tensor], tmp_path: Path) -> None:
    paths = [tmp_path / f"{name}.safetensors" for name in "xy"]
    for path in paths:
        save_file(tensors, path)
    with pytest.raises(ValueError, match="two files have a tensor 'a'"):
        join_weights(paths, tmp_path / "joined.safetensors")


def test_headers_that_are_no_tables_are_refused(tmp_path: Path) -> None:
    for number in range(2):
        text = json.dumps([number]).encode()
        (tmp_path / f"{number}.safetensors").write_bytes(len(text).to_bytes(8, "little") + text)
    with pytest.raises(UserError, match="cannot be put together"):
        find_weights(tmp_path, tmp_path)

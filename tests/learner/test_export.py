"""What is exported loads where people load models, is what the learner published, and replaces nothing unasked."""

import fcntl
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tristream.cli.exporting import MAX_SHARD_BYTES, Exported, Wish, export_run, find_run
from tristream.config.load import load_run_file
from tristream.config.parts import LearnerSettings
from tristream.config.run_file import RunFile
from tristream.learner.weights import publish_weights
from tristream.runtime.errors import UserError
from tristream.runtime.safetensors_files import read_header, split_names
from tristream.runtime.store import open_store

RUN_FILE = """
[run]
id = "tiny"
steps = 8
output = "{output}"
[model]
path = "{model}"
[[sources]]
name = "sums"
train = "sums.jsonl"
"""


def weights_of(model: Path, change: float) -> dict[str, Tensor]:
    """Weights as the learner publishes them, each changed a little."""
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText

    config = AutoConfig.from_pretrained(model)
    kind = AutoModelForImageTextToText if hasattr(config, "vision_config") else AutoModelForCausalLM
    named = kind.from_pretrained(model, dtype=torch.float32).named_parameters()
    return {name: (weight.detach() + change).contiguous() for name, weight in named}


def make_run(folder: Path, model: Path, versions: tuple[int, ...] = (0, 4, 8)) -> Path:
    """A run file, and the weights of some versions in the run's store, each changed by a hundredth of the version."""
    run_file = folder / "run.toml"
    run_file.write_text(RUN_FILE.format(output=folder, model=model), encoding="utf-8")
    settings = LearnerSettings.of(load_run_file(run_file, ()))
    store = open_store(settings.store, settings.run.folder)
    for version in versions:
        publish_weights(store, version, weights_of(model, version / 100), settings, epoch=1)
    return run_file


def export(
    run_file: Path, target: Path, step: int | None = None, *, shard: int = MAX_SHARD_BYTES, overwrites: bool = False
) -> Exported:
    settings, folder = find_run(run_file, ())
    return export_run(settings, folder, target, Wish(step=step), overwrites=overwrites, max_shard_bytes=shard)


@pytest.mark.parametrize("max_shard_bytes", [MAX_SHARD_BYTES, 20_000])
def test_a_vision_language_model_loads_with_its_processor_and_the_weights_of_the_step(
    vision_checkpoint: Path, tmp_path: Path, max_shard_bytes: int
) -> None:
    from transformers import AutoModelForImageTextToText, Qwen2VLImageProcessorPil

    (vision_checkpoint / "chat_template.jinja").write_text("{{ messages }}", encoding="utf-8")
    done = export(make_run(tmp_path, vision_checkpoint), tmp_path / "out-4", 4, shard=max_shard_bytes)
    loaded, info = AutoModelForImageTextToText.from_pretrained(tmp_path / "out-4", output_loading_info=True)
    assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    expected = weights_of(vision_checkpoint, 0.04)
    actual = dict(loaded.named_parameters())
    assert actual.keys() == expected.keys()
    assert all(torch.equal(actual[name], weight) for name, weight in expected.items())
    processors = [
        Qwen2VLImageProcessorPil.from_pretrained(folder) for folder in (vision_checkpoint, tmp_path / "out-4")
    ]
    assert processors[0].to_dict() == processors[1].to_dict()
    num_shards = sum(name.endswith(".safetensors") for name in done.files)
    assert (num_shards > 3) == (max_shard_bytes == 20_000)
    assert {"config.json", "generation_config.json", "chat_template.jinja"} <= set(done.files)


def test_each_shard_is_read_by_safetensors_itself_and_together_they_are_all(
    text_checkpoint: Path, tmp_path: Path
) -> None:
    from safetensors.torch import load_file

    done = export(make_run(tmp_path, text_checkpoint, (8,)), tmp_path / "out", shard=9_000)
    parts = [load_file(tmp_path / "out" / name) for name in done.files if name.endswith(".safetensors")]
    together = {name: weight for part in parts for name, weight in part.items()}
    expected = weights_of(text_checkpoint, 0.08)
    assert sum(map(len, parts)) == len(together) == len(expected)
    assert all(torch.equal(together[name], weight) for name, weight in expected.items())
    largest = max(weight.nbytes for weight in expected.values())
    assert all(sum(weight.nbytes for weight in part.values()) <= max(9_000, largest) for part in parts)


def test_without_a_step_it_is_the_newest_and_of_two_learners_the_newer_one_s(
    text_checkpoint: Path, tmp_path: Path
) -> None:
    run_file = make_run(tmp_path, text_checkpoint, (0, 8))
    settings = LearnerSettings.of(load_run_file(run_file, ()))
    store = open_store(settings.store, settings.run.folder)
    publish_weights(store, 8, weights_of(text_checkpoint, 0.5), settings, epoch=2)
    assert export(run_file, tmp_path / "out").step == 8
    name = "model.norm.weight"
    from safetensors.torch import load_file

    expected = weights_of(text_checkpoint, 0.5)[name]
    assert torch.equal(load_file(tmp_path / "out" / "model.safetensors")[name], expected)


def test_a_configuration_names_the_type_that_the_weights_have(text_checkpoint: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    AutoModelForCausalLM.from_pretrained(text_checkpoint, dtype=torch.bfloat16).save_pretrained(tmp_path / "model")
    (tmp_path / "model" / "pytorch_model.bin").write_bytes(b"old weights")
    done = export(make_run(tmp_path, tmp_path / "model", (8,)), tmp_path / "out")
    assert "pytorch_model.bin" not in done.files
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "out").dtype == torch.float32


def test_a_step_without_weights_is_refused_by_the_steps_that_have_some(text_checkpoint: Path, tmp_path: Path) -> None:
    run_file = make_run(tmp_path, text_checkpoint)
    with pytest.raises(UserError, match=r"no weights of step 3 are kept; give one of 0, 4, 8"):
        export(run_file, tmp_path / "out", 3)
    assert not (tmp_path / "out").exists()


def test_a_folder_in_use_stays_as_it_is_and_an_earlier_export_is_replaced_only_when_told(
    text_checkpoint: Path, tmp_path: Path
) -> None:
    run_file, target = make_run(tmp_path, text_checkpoint), tmp_path / "out"
    target.mkdir()
    (target / "thesis.txt").write_text("five years", encoding="utf-8")
    for overwrites in (False, True):
        with pytest.raises(UserError, match="it is there, and no export; give another folder"):
            export(run_file, target, overwrites=overwrites)
    assert [path.name for path in target.iterdir()] == ["thesis.txt"]
    export(run_file, tmp_path / "once", 4)
    with pytest.raises(UserError, match=r"an earlier export is there; .*--overwrite"):
        export(run_file, tmp_path / "once", 8)
    assert json.loads((tmp_path / "once" / "tristream.json").read_text())["step"] == 4
    export(run_file, tmp_path / "once", 8, overwrites=True)
    assert json.loads((tmp_path / "once" / "tristream.json").read_text())["step"] == 8


def test_a_second_export_to_a_folder_is_refused_and_what_a_killed_one_left_is_not_in_the_next(
    text_checkpoint: Path, tmp_path: Path
) -> None:
    run_file = make_run(tmp_path, text_checkpoint, (8,))
    building = tmp_path / ".out.tmp"
    building.mkdir()
    (building / "left.json").write_text("{}", encoding="utf-8")
    descriptor = os.open(building, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    with pytest.raises(UserError, match="another export is written there"):
        export(run_file, tmp_path / "out")
    assert (building / "left.json").exists(), "it is the other's"
    os.close(descriptor)
    assert "left.json" not in export(run_file, tmp_path / "out").files
    assert not building.exists()


def test_damaged_weights_are_refused_and_leave_nothing(text_checkpoint: Path, tmp_path: Path) -> None:
    run_file = make_run(tmp_path, text_checkpoint, (8,))
    (path,) = (tmp_path / "tiny" / "store" / "weights" / "8").iterdir()
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(UserError, match="the weights do not have their checksum"):
        export(run_file, tmp_path / "target")
    assert not [path for path in tmp_path.iterdir() if "target" in path.name]


def test_the_command_takes_a_run_folder_and_says_what_it_wrote(text_checkpoint: Path, tmp_path: Path) -> None:
    run_file = make_run(tmp_path, text_checkpoint, (8,))
    settings: RunFile = load_run_file(run_file, ())
    settings.run.folder.run_file.write_text(settings.model_dump_json(), encoding="utf-8")
    moved = tmp_path / "elsewhere"
    settings.run.folder.path.rename(moved)

    def run(*arguments: str) -> "subprocess.CompletedProcess[str]":
        command = [sys.executable, "-m", "tristream.cli", "export", str(moved), str(tmp_path / "target"), *arguments]
        return subprocess.run(command, check=False, capture_output=True, text=True)

    best = run("--best")
    assert (best.returncode, "no database that would say which step is best" in best.stderr) == (2, True)
    both = run("--best", "--step", "8")
    assert (both.returncode, "not both" in both.stderr) == (2, True)
    done = run()
    assert (done.returncode, done.stdout) == (0, f"step 8 of tiny: 4 files in {tmp_path / 'target'}\n")


def test_a_tensor_larger_than_a_shard_has_one_of_its_own(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    save_file({"a": torch.zeros(2), "b": torch.zeros(100), "c": torch.zeros(2), "d": torch.zeros(1)}, tmp_path / "w")
    header = read_header(tmp_path / "w")
    shards = split_names(header, 16)
    assert sorted(name for names in shards for name in names) == ["a", "b", "c", "d"]
    assert ["b"] in shards
    assert header.dtype == "float32"

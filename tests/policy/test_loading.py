"""Which checkpoints are taken, and by whom; what is wrong with the others is said in one line."""

import shutil
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from transformers import CohereConfig, Gemma2Config, GraniteConfig, LlamaConfig, PretrainedConfig, Qwen2Config

from tristream.policy.loading import (
    checkpoint_name_in_memory,
    has_vision,
    load_config,
    load_model,
    require_supported,
)
from tristream.runtime.errors import UserError


def test_a_model_is_loaded_with_its_vision_tower_in_the_precision_asked_for(
    vision_model_path: Path, text_model_path: Path
) -> None:
    vision, text = load_model(vision_model_path, "bf16"), load_model(text_model_path, "fp32")
    assert (has_vision(vision.config), has_vision(text.config)) == (True, False)
    assert {parameter.dtype for parameter in vision.parameters()} == {torch.bfloat16}
    assert {parameter.dtype for parameter in text.parameters()} == {torch.float32}
    assert vision.model.visual is not None


def test_a_folder_that_is_no_whole_checkpoint_is_refused_in_one_line(tmp_path: Path, text_model_path: Path) -> None:
    with pytest.raises(UserError, match=r"\[model\] path = .*: has no config.json; give"):
        load_config(tmp_path)
    damaged = tmp_path / "damaged"
    shutil.copytree(text_model_path, damaged)
    weights = damaged / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(UserError, match="no model can be loaded") as refused:
        load_model(damaged, "fp32")
    assert "\n" not in str(refused.value)
    weights.unlink()
    with pytest.raises(UserError, match="no model can be loaded") as refused:
        load_model(damaged, "fp32")
    assert "\n" not in str(refused.value)
    (damaged / "config.json").write_text('{"model_type": "unheard-of"}')
    with pytest.raises(UserError, match="no model can be loaded"):
        load_config(damaged)


@pytest.mark.parametrize(
    ("config", "field"),
    [
        (Gemma2Config(), "final_logit_softcapping, attn_logit_softcapping"),
        (CohereConfig(), "logit_scale"),
        (GraniteConfig(logits_scaling=8.0), "logits_scaling"),
    ],
)
def test_models_that_scale_or_cap_logits_are_refused(config: PretrainedConfig, field: str, tmp_path: Path) -> None:
    config.save_pretrained(tmp_path)
    with pytest.raises(UserError, match=rf"scales its logits \({field}\); take"):
        load_model(tmp_path, "fp32")


@pytest.mark.parametrize("config", [LlamaConfig(), Qwen2Config(), GraniteConfig(logits_scaling=1.0)])
def test_plain_models_are_taken(config: PretrainedConfig, tmp_path: Path) -> None:
    require_supported(config, tmp_path)


@pytest.mark.parametrize(
    ("on_disk", "in_memory"),
    [
        ("visual.blocks.0.attn.qkv.weight", "model.visual.blocks.0.attn.qkv.weight"),
        ("model.layers.1.mlp.up_proj.weight", "model.language_model.layers.1.mlp.up_proj.weight"),
        ("model.visual.blocks.0.attn.qkv.weight", "model.visual.blocks.0.attn.qkv.weight"),
        ("lm_head.weight", "lm_head.weight"),
    ],
)
def test_the_names_of_both_kinds_of_checkpoint_files_are_found(
    on_disk: str, in_memory: str, vision_model_path: Path
) -> None:
    names = set(load_model(vision_model_path, "fp32").state_dict())
    assert in_memory in names
    assert checkpoint_name_in_memory(on_disk, names) == in_memory


def test_every_name_of_a_checkpoint_file_is_one_of_the_model(vision_model_path: Path, text_model_path: Path) -> None:
    for path in (vision_model_path, text_model_path):
        names = set(load_model(path, "fp32").state_dict())
        with safe_open(path / "model.safetensors", framework="pt") as file:
            on_disk = set(file.keys())
        assert on_disk
        assert {checkpoint_name_in_memory(name, names) for name in on_disk} <= names

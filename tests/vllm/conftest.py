"""The small models, with heads as wide as vLLM's attention on CPUs wants them; skipped where there is no vLLM."""

import shutil
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, LlamaForCausalLM, Qwen2_5_VLForConditionalGeneration

HEAD_SIZE = 32
"""The least that vLLM's attention on CPUs takes."""
NUM_HEADS = 2


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip the tests of this folder where there is no vLLM."""
    if find_spec("vllm") is None:
        skip = pytest.mark.skip(reason="there is no vLLM here: make test-vllm")
        for item in items:
            if Path(__file__).parent in item.path.parents:
                item.add_marker(skip)


def widen(model_path: Path, folder: Path, kind: Any) -> Path:
    """A model like another one, with wider heads and weights of its own."""
    shutil.copytree(model_path, folder, dirs_exist_ok=True)
    config = AutoConfig.from_pretrained(model_path)
    text = config.get_text_config()
    text.hidden_size = HEAD_SIZE * NUM_HEADS
    text.num_attention_heads, text.num_key_value_heads = NUM_HEADS, 1
    if getattr(text, "head_dim", None) is not None:
        text.head_dim = HEAD_SIZE
    if config is not text:
        text.rope_parameters["mrope_section"] = [8, 4, 4]
        config.vision_config.hidden_size = HEAD_SIZE * config.vision_config.num_heads
        config.vision_config.out_hidden_size = text.hidden_size
    torch.manual_seed(7)
    model = kind(config)
    for name, parameter in model.named_parameters():
        if "norm" not in name and "bias" not in name:
            torch.nn.init.normal_(parameter, std=0.2)
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def text_model_path(text_model_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return widen(text_model_path, tmp_path_factory.mktemp("wide-text-model"), LlamaForCausalLM)


@pytest.fixture(scope="session")
def vision_model_path(vision_model_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return widen(vision_model_path, tmp_path_factory.mktemp("wide-vision-model"), Qwen2_5_VLForConditionalGeneration)

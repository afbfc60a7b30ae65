"""Small things that are real: a vision-language model, a language model, images, rows and run files."""

import gc
import io
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
)
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from tristream.config.run_file import RunFile

os.environ.setdefault("JDK_JAVA_OPTIONS", "-XX:TieredStopAtLevel=1")
"""Apache Kafka starts in half the processor time, which is what most tests that start it need of it."""

SPECIAL_TOKENS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
TEXT_CONFIG: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "rope_parameters": {"rope_type": "default", "mrope_section": [2, 1, 1], "rope_theta": 10000.0},
    "tie_word_embeddings": True,
}


def pytest_configure(config: pytest.Config) -> None:
    """Property tests try the same examples each time, without a deadline, unless they are told of a profile."""
    if config.pluginmanager.hasplugin("hypothesispytest") and not config.getoption("--hypothesis-profile"):
        from hypothesis import settings  # the environment of vLLM has none

        settings.load_profile("ci")


def pytest_sessionstart() -> None:
    """Nothing that is imported for tests is garbage: to look for some takes a tenth of the time of quick tests."""
    gc.disable()


def pytest_collection_finish() -> None:
    """From here on look for garbage, but not among what was imported."""
    gc.freeze()
    gc.enable()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Where files are shared out to processes, those of slow tests come first: none is left over for the end."""
    if hasattr(config, "workerinput"):
        slow_files = {item.path for item in items if item.get_closest_marker("slow")}
        items.sort(key=lambda item: item.path not in slow_files)


def make_tokenizer() -> PreTrainedTokenizerFast:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: number for number, token in enumerate((*SPECIAL_TOKENS, *alphabet))}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(list(SPECIAL_TOKENS))
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|endoftext|>", chat_template=CHAT_TEMPLATE
    )


def spread_weights(model: Any) -> None:
    """Make a fresh model's answers depend strongly on all that it reads."""
    for name, parameter in model.named_parameters():
        if "norm" not in name and "bias" not in name:
            torch.nn.init.normal_(parameter, std=0.2)


@pytest.fixture(scope="session")
def vision_model_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("vision-model")
    tokenizer = make_tokenizer()
    token_ids = dict(zip(SPECIAL_TOKENS, tokenizer.convert_tokens_to_ids(list(SPECIAL_TOKENS)), strict=True))
    config = Qwen2_5_VLConfig(
        text_config={**TEXT_CONFIG, "vocab_size": len(tokenizer), "eos_token_id": token_ids["<|im_end|>"]},
        vision_config={
            "depth": 2,
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_heads": 2,
            "out_hidden_size": 32,
            "patch_size": 4,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
            "window_size": 16,
            "fullatt_block_indexes": [1],
        },
        image_token_id=token_ids["<|image_pad|>"],
        video_token_id=token_ids["<|video_pad|>"],
        vision_start_token_id=token_ids["<|vision_start|>"],
        vision_end_token_id=token_ids["<|vision_end|>"],
        tie_word_embeddings=True,
    )
    torch.manual_seed(1)
    model = Qwen2_5_VLForConditionalGeneration(config)
    spread_weights(model)
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)
    Qwen2VLImageProcessorPil(
        patch_size=4, merge_size=2, temporal_patch_size=2, min_pixels=64, max_pixels=4096
    ).save_pretrained(path)
    return path


@pytest.fixture(scope="session")
def text_model_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text-model")
    tokenizer = make_tokenizer()
    text_config = {**TEXT_CONFIG, "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0}}
    torch.manual_seed(2)
    eos_token_id = tokenizer.convert_tokens_to_ids("<|im_end|>")
    model = LlamaForCausalLM(LlamaConfig(**text_config, vocab_size=len(tokenizer), eos_token_id=eos_token_id))
    spread_weights(model)
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


@pytest.fixture(scope="session")
def make_image() -> Callable[[int, int, int], bytes]:
    """An encoded image of a width, a height and random pixels."""

    def make(width: int, height: int, seed: int) -> bytes:
        buffer = io.BytesIO()
        Image.frombytes("RGB", (width, height), random.Random(seed).randbytes(3 * width * height)).save(buffer, "PNG")
        return buffer.getvalue()

    return make


@pytest.fixture
def make_row(make_image: Callable[[int, int, int], bytes]) -> Callable[..., dict[str, Any]]:
    """A row of V-Triune's schema."""

    def make(number: int = 0, **changes: object) -> dict[str, Any]:
        reward_model = {
            "answer": "4",
            "ground_truth": "\\boxed{4}",
            "accuracy_ratio": 1.0,
            "format_ratio": 0.1,
            "verifier": "mathverify",
            "verifier_parm": {"det_verifier_normalized": None, "det_reward_ratio": {"map": None}},
        }
        return {
            "data_source": "sums",
            "images": [{"bytes": make_image(16, 16, number), "path": None}],
            "prompt": [{"role": "user", "content": f"<image>What is {number}?"}],
            "ability": "math",
            "reward_model": {**reward_model, **{key: changes[key] for key in reward_model if key in changes}},
            "extra_info": {"id": f"row-{number}", "image_path": ""},
            **{key: value for key, value in changes.items() if key not in reward_model},
        }

    return make


@pytest.fixture
def write_rows(tmp_path: Path) -> Callable[[str, list[dict[str, Any]]], Path]:
    """A Parquet file with the given rows."""

    def write(name: str, rows: list[dict[str, Any]]) -> Path:
        path = tmp_path / f"{name}.parquet"
        pq.write_table(pa.Table.from_pylist(rows), path)
        return path

    return write


@pytest.fixture
def make_settings(
    tmp_path: Path,
    vision_model_path: Path,
    make_row: Callable[..., dict[str, Any]],
    write_rows: Callable[[str, list[dict[str, Any]]], Path],
) -> Callable[..., RunFile]:
    """A run of two sources with 5 and 4 rows to train on, and 3 held out."""

    def make(**sections: Any) -> RunFile:
        tree: dict[str, Any] = {
            "run": {"id": "demo", "steps": 4, "seed": 7, "output": tmp_path / "runs"},
            "model": {"path": vision_model_path},
            "sources": [
                {
                    "name": "sums",
                    "train": write_rows("sums", [make_row(number) for number in range(5)]),
                    "eval": write_rows("sums-eval", [make_row(100 + number) for number in range(3)]),
                    "weight": 2.0,
                    "eval_params": {"answer_in": "boxed"},
                },
                {"name": "counts", "train": write_rows("counts", [make_row(number) for number in range(4)])},
            ],
            "rollout": {"groups_per_step": 2, "group_size": 3, "max_staleness": 1, "max_tokens": 6},
            "evaluation": {"every": 2},
        }
        for name, section in sections.items():
            tree[name] = {**tree.get(name, {}), **section} if isinstance(section, dict) else section
        return RunFile.model_validate(tree)

    return make

"""Tiny random checkpoints of a vision-language and of a language model."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from scratch_batches import ScratchBatches, serving_scratch_batches
from training_groups import CELL_PIXELS, IMAGE_TOKEN, VIDEO_TOKEN, VISION_END, VISION_START


@pytest.fixture(scope="session")
def vision_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a random Qwen2.5-VL of two layers and a vocabulary of 64."""
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration, Qwen2VLImageProcessorPil

    torch.manual_seed(0)
    config = Qwen2_5_VLConfig(
        vision_config={
            "depth": 2, "hidden_size": 32, "intermediate_size": 64, "num_heads": 2, "patch_size": 14,
            "spatial_merge_size": 2, "temporal_patch_size": 2, "window_size": 56, "fullatt_block_indexes": [1],
            "out_hidden_size": 32,
        },
        text_config={
            "vocab_size": 64, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
            "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 256,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [1, 1, 2]},
            "tie_word_embeddings": True, "bos_token_id": None, "eos_token_id": 1, "pad_token_id": 0,
        },
        tie_word_embeddings=True, image_token_id=IMAGE_TOKEN, video_token_id=VIDEO_TOKEN,
        vision_start_token_id=VISION_START, vision_end_token_id=VISION_END,
    )  # fmt: skip
    model = Qwen2_5_VLForConditionalGeneration(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(6.0)  # distributions far from uniform, so that errors are seen
    folder = tmp_path_factory.mktemp("vision-checkpoint")
    model.save_pretrained(folder)
    Qwen2VLImageProcessorPil(
        size={"shortest_edge": CELL_PIXELS**2, "longest_edge": 64 * CELL_PIXELS**2},
        patch_size=14, merge_size=2, temporal_patch_size=2,
    ).save_pretrained(folder)  # fmt: skip
    return folder


@pytest.fixture(scope="session")
def text_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a random Qwen2 of two layers and a vocabulary of 64."""
    from transformers import Qwen2Config, Qwen2ForCausalLM

    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=256, tie_word_embeddings=False, bos_token_id=None,
        eos_token_id=1, pad_token_id=0,
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("text-checkpoint")
    Qwen2ForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.fixture
def batches() -> Iterator[tuple[ScratchBatches, str]]:
    """A batch service that does what it is told to, and its address."""
    with serving_scratch_batches() as served:
        yield served

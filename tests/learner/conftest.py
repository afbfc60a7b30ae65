"""A tiny random Qwen2.5-VL checkpoint and scored groups, built in code."""

import hashlib
import io
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image as PillowImage

from tristream.wire.batches import TrainingGroup, TrainingRollout
from tristream.wire.events import Group, Image, RolloutOutcome, Split

IMAGE_TOKEN, VIDEO_TOKEN, VISION_START, VISION_END = 60, 61, 62, 63
CELL_PIXELS = 28

MakeGroups = Callable[..., tuple[TrainingGroup, ...]]


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


def make_image(generator: random.Random) -> Image:
    width, height = (CELL_PIXELS * generator.randint(1, 3) for _ in range(2))
    picture = PillowImage.frombytes("RGB", (width, height), generator.randbytes(width * height * 3))
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG")
    data = buffer.getvalue()
    return Image(media_type="image/png", sha256=hashlib.sha256(data).hexdigest(), size_bytes=len(data), data=data)


def make_group(generator: random.Random, number: int, *, size: int, num_images: int, run: str) -> TrainingGroup:
    images = tuple(make_image(generator) for _ in range(num_images))
    prompt: list[int] = [generator.randrange(2, 60) for _ in range(generator.randint(1, 6))]
    for image in images:
        width, height = PillowImage.open(io.BytesIO(image.data)).size
        prompt += [VISION_START, *[IMAGE_TOKEN] * ((width // CELL_PIXELS) * (height // CELL_PIXELS)), VISION_END]
        prompt += [generator.randrange(2, 60) for _ in range(generator.randint(1, 6))]
    rollouts = []
    for index in range(size):
        length = generator.choice([1, 2, 5, 9])
        rollouts.append(
            TrainingRollout(
                group_number=number,
                index=index,
                prompt_tokens=tuple(prompt),
                completion_tokens=tuple(generator.randrange(1, 60) for _ in range(length)),
                logprobs=tuple(-generator.uniform(1.0, 6.0) for _ in range(length)),
                reward=generator.random(),
                advantage=generator.uniform(-1.5, 1.5),
                temperature=generator.choice([0.7, 1.0, 1.3]),
                age=index % 2,
            )
        )
    return TrainingGroup(
        group=Group(run=run, split=Split.TRAIN, number=number, source="shapes", sample_id=str(number), size=size),
        images=images,
        rollouts=tuple(rollouts),
        outcomes=tuple(
            RolloutOutcome(index=r.index, valid=True, reward=r.reward, advantage=r.advantage) for r in rollouts
        ),
        oldest_version=0,
    )


def spoil_group(group: TrainingGroup) -> TrainingGroup:
    """The group with an advantage that is no number, as a defect upstream would make it."""
    first, *others = group.rollouts
    return replace(group, rollouts=(replace(first, advantage=float("nan")), *others))


@pytest.fixture(scope="session")
def make_groups() -> MakeGroups:
    """Builds ``count`` groups: ``make_groups(count, size=4, num_images=1, seed=0, first=0)``."""

    def build(
        count: int, *, size: int = 4, num_images: int = 1, seed: int = 0, first: int = 0, run: str = "test"
    ) -> tuple[TrainingGroup, ...]:
        generator = random.Random(seed)
        return tuple(
            make_group(generator, first + number, size=size, num_images=num_images, run=run) for number in range(count)
        )

    return build

"""The digits model: its configuration, its inputs, and greedy answers from it.

A batch must carry ``mm_token_type_ids`` (1 at image tokens, else 0): without it transformers 5 falls back to plain
one-dimensional positions in silence, while the model is trained with the three-dimensional ones of Qwen2.5-VL.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from compose import CELL_PIXELS, Task
from grading import grade_content, grade_response
from transformers import (
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2VLImageProcessorPil,
)

IMAGE_TOKEN = "<|image_pad|>"
MAX_RESPONSE_TOKENS = 48
IGNORED_LABEL = -100

Batch = dict[str, torch.Tensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class Toolkit:
    """What turns tasks into model inputs."""

    tokenizer: PreTrainedTokenizerFast
    image_processor: Qwen2VLImageProcessorPil


@dataclass(frozen=True, slots=True, kw_only=True)
class Grades:
    """Mean greedy accuracy of one source."""

    accuracy: float
    """As its verifier scores: the demanded style is needed."""
    content: float
    """In any style: perception apart from style."""


def make_image_processor() -> Qwen2VLImageProcessorPil:
    """Return the image processor; it needs no torchvision."""
    return Qwen2VLImageProcessorPil(
        size={"shortest_edge": CELL_PIXELS**2, "longest_edge": 64 * CELL_PIXELS**2},
        patch_size=14,
        merge_size=2,
        temporal_patch_size=2,
    )


def make_config(tokenizer: PreTrainedTokenizerFast) -> Qwen2_5_VLConfig:
    """Return the configuration of a Qwen2.5-VL of about 2.6 million parameters."""
    hidden_size = 192
    vision_config = {
        "depth": 3,
        "hidden_size": 128,
        "intermediate_size": 256,
        "num_heads": 4,
        "patch_size": 14,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
        # One window holds any picture of this example, so that all layers see all of it.
        "window_size": 6 * CELL_PIXELS,
        "fullatt_block_indexes": [2],
        "out_hidden_size": hidden_size,
    }
    text_config = {
        "vocab_size": len(tokenizer),
        "hidden_size": hidden_size,
        "intermediate_size": 512,
        "num_hidden_layers": 4,
        "num_attention_heads": 6,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [4, 6, 6]},
        "tie_word_embeddings": True,
        "bos_token_id": None,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    tokens = {
        name: tokenizer.convert_tokens_to_ids(token)
        for name, token in (
            ("image_token_id", IMAGE_TOKEN),
            ("video_token_id", "<|video_pad|>"),
            ("vision_start_token_id", "<|vision_start|>"),
            ("vision_end_token_id", "<|vision_end|>"),
        )
    }
    return Qwen2_5_VLConfig(vision_config=vision_config, text_config=text_config, tie_word_embeddings=True, **tokens)


def encode_images(toolkit: Toolkit, tasks: Sequence[Task]) -> Batch:
    """Return ``pixel_values`` and ``image_grid_thw``."""
    processed = toolkit.image_processor(images=[task.scene.pixels for task in tasks], return_tensors="pt")
    return {"pixel_values": processed["pixel_values"], "image_grid_thw": processed["image_grid_thw"]}


def encode_prompt(toolkit: Toolkit, question: str, num_image_tokens: int) -> list[int]:
    """Return the token ids of the chat prompt with one placeholder per image token."""
    content = f"<|vision_start|>{IMAGE_TOKEN * num_image_tokens}<|vision_end|>{question}"
    messages = [{"role": "user", "content": content}]
    text = toolkit.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    return list(toolkit.tokenizer(text)["input_ids"])


def encode_batch(toolkit: Toolkit, tasks: Sequence[Task], responses: Sequence[str] | None = None) -> Batch:
    """Return the left-padded model inputs, with labels on the response tokens if responses are given."""
    batch = encode_images(toolkit, tasks)
    merged = batch["image_grid_thw"].prod(dim=1) // toolkit.image_processor.merge_size**2
    prompts = [encode_prompt(toolkit, task.question, int(num)) for task, num in zip(tasks, merged, strict=True)]
    endings: list[list[int]] = [[] for _ in tasks]
    if responses is not None:
        endings = [[*toolkit.tokenizer(text)["input_ids"], toolkit.tokenizer.eos_token_id] for text in responses]
    width = max(len(prompt) + len(ending) for prompt, ending in zip(prompts, endings, strict=True))
    input_ids = torch.full((len(tasks), width), toolkit.tokenizer.pad_token_id)
    labels = torch.full((len(tasks), width), IGNORED_LABEL)
    attention_mask = torch.zeros((len(tasks), width), dtype=torch.long)
    for row, (prompt, ending) in enumerate(zip(prompts, endings, strict=True)):
        tokens = prompt + ending
        input_ids[row, width - len(tokens) :] = torch.tensor(tokens)
        attention_mask[row, width - len(tokens) :] = 1
        if ending:
            labels[row, width - len(ending) :] = torch.tensor(ending)
    image_token_id = toolkit.tokenizer.convert_tokens_to_ids(IMAGE_TOKEN)
    batch |= {"input_ids": input_ids, "attention_mask": attention_mask}
    batch["mm_token_type_ids"] = (input_ids == image_token_id).int()
    return batch | ({"labels": labels} if responses is not None else {})


@torch.no_grad()
def answer_greedily(model: Qwen2_5_VLForConditionalGeneration, toolkit: Toolkit, tasks: Sequence[Task]) -> list[str]:
    """Return the greedy response to each task."""
    batch = encode_batch(toolkit, tasks)
    generate: Any = model.generate
    tokens = generate(**batch, max_new_tokens=MAX_RESPONSE_TOKENS, do_sample=False)
    new_tokens = tokens[:, batch["input_ids"].shape[1] :]
    return list(toolkit.tokenizer.batch_decode(new_tokens, skip_special_tokens=True))


def grade_greedily(model: Qwen2_5_VLForConditionalGeneration, toolkit: Toolkit, tasks: Sequence[Task]) -> Grades:
    """Grade the greedy responses to tasks of one source."""
    responses = answer_greedily(model, toolkit, tasks)
    pairs = list(zip(tasks, responses, strict=True))
    scores = [grade_response(task.source, response, task.answer) for task, response in pairs]
    contents = [grade_content(task.source, response, task.answer) for task, response in pairs]
    return Grades(accuracy=sum(scores) / len(scores), content=sum(contents) / len(contents))

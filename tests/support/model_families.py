"""Tiny models with random weights, one of each family, built from their configs alone."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

VOCABULARY = 64
IMAGE, VIDEO, VISION_START, VISION_END = 60, 61, 62, 63

TEXT: Mapping[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 128,
    "bos_token_id": None,
    "eos_token_id": 1,
    "pad_token_id": 0,
}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24}
MROPE = {"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [1, 1, 2]}}
PLACEHOLDERS = {
    "image_token_id": IMAGE,
    "video_token_id": VIDEO,
    "vision_start_token_id": VISION_START,
    "vision_end_token_id": VISION_END,
}
PATCHES = {"depth": 3, "num_heads": 2, "patch_size": 4, "spatial_merge_size": 2, "temporal_patch_size": 2}
DEEPSTACK = {
    **PATCHES, "hidden_size": 32, "intermediate_size": 48, "out_hidden_size": 32, "num_position_embeddings": 64,
    "deepstack_visual_indexes": [0, 1],
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """One type of models."""

    name: str
    changes: Mapping[str, Any] = field(default_factory=dict)
    """Of its text config."""
    vision: Mapping[str, Any] | None = None
    """Its vision config; None for a text model."""
    without: tuple[str, ...] = ()
    """Fields that its config has not."""

    def config(self) -> Any:
        """Its config."""
        text = {name: value for name, value in {**TEXT, **self.changes}.items() if name not in self.without}
        if self.vision is None:
            return CONFIG_MAPPING[self.name](**text)
        return CONFIG_MAPPING[self.name](text_config=text, vision_config=dict(self.vision), **PLACEHOLDERS)

    def build(self) -> Any:
        """A model whose answers depend strongly on all that it reads."""
        torch.manual_seed(3)
        config = self.config()
        kind = AutoModelForCausalLM if self.vision is None else AutoModelForImageTextToText
        model = kind.from_config(config)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if parameter.ndim > 1 and "norm" not in name:
                    parameter.normal_(std=0.25)
        return model

    def write(self, folder: Path) -> Path:
        """A checkpoint of it, without a tokenizer."""
        path = folder / self.name
        self.build().save_pretrained(path)
        return path

    def load(self, path: Path) -> Any:
        """What was written, with attention that is neither a producer's nor a learner's."""
        kind = AutoModelForCausalLM if self.vision is None else AutoModelForImageTextToText
        return kind.from_pretrained(path, attn_implementation="eager").eval()


TAKEN = (
    Family(name="llama"),
    Family(name="mistral", changes={"sliding_window": 96}),
    Family(name="qwen2"),
    Family(name="qwen3"),
    Family(name="qwen3_moe", changes=EXPERTS),
    Family(name="mixtral", changes={"num_local_experts": 4, "num_experts_per_tok": 2}),
    Family(name="gemma"),
    Family(
        name="gemma3_text",
        changes={"sliding_window": 96, "layer_types": ["sliding_attention", "full_attention", "sliding_attention"]},
    ),
    Family(name="phi3"),
    Family(name="smollm3", changes={"no_rope_layers": [1, 0, 1]}),
    Family(name="olmo2"),
    Family(
        name="granite",
        changes={"embedding_multiplier": 3.0, "residual_multiplier": 0.5, "attention_multiplier": 0.4},
    ),
    Family(name="gpt_neox", without=("head_dim", "num_key_value_heads")),
    Family(name="gpt2", without=("head_dim", "num_key_value_heads", "intermediate_size")),
    Family(
        name="qwen2_vl",
        changes=MROPE,
        vision={**PATCHES, "embed_dim": 32, "hidden_size": 32, "mlp_ratio": 2},
    ),
    Family(
        name="qwen2_5_vl",
        changes=MROPE,
        vision={
            **PATCHES, "hidden_size": 32, "intermediate_size": 48, "out_hidden_size": 32, "window_size": 16,
            "fullatt_block_indexes": [1],
        },
    ),
    Family(name="qwen3_vl", changes=MROPE, vision=DEEPSTACK),
    Family(name="qwen3_vl_moe", changes={**MROPE, **EXPERTS}, vision=DEEPSTACK),
)  # fmt: skip

REFUSED = (
    Family(name="qwen3_next", changes={"layer_types": ["linear_attention", "linear_attention", "full_attention"]}),
    Family(name="lfm2", changes={"layer_types": ["conv", "conv", "full_attention"]}),
    Family(name="mamba"),
    Family(name="llama4_text"),
    Family(name="gemma2"),
    Family(name="cohere"),
    Family(name="deepseek_v3"),
    Family(name="gpt_oss"),
    Family(name="diffllama"),
    Family(name="gptj", without=("head_dim", "num_key_value_heads")),
    Family(name="t5", without=tuple(TEXT)),
    Family(name="llava"),
    Family(name="gemma3"),
    Family(name="internvl"),
    Family(name="smolvlm"),
    Family(name="qwen3_5"),
)
"""Types that their configs are enough to refuse; those that take images have the default one."""


def score_by_itself(model: Any, tokens: Sequence[int], images: Sequence[Any] = ()) -> Tensor:
    """Log-probability [tokens - 1] of each token after the first in a forward pass of the model, with gradient."""
    ids = torch.tensor([tokens])
    inputs: dict[str, Tensor] = {}
    if images:
        inputs["mm_token_type_ids"] = (ids == IMAGE).int()
        inputs["pixel_values"] = torch.cat([image.pixel_values for image in images])
        inputs["image_grid_thw"] = torch.tensor([image.grid_thw for image in images])
    logits = model(input_ids=ids, attention_mask=torch.ones_like(ids), **inputs).logits[0].float()
    if hasattr(model.config, "vision_config"):
        logits = logits.index_fill(1, torch.tensor([IMAGE, VIDEO, VISION_START, VISION_END]), -torch.inf)
    return torch.log_softmax(logits[:-1], dim=-1).gather(1, ids[0, 1:, None])[:, 0]

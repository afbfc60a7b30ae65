"""A checkpoint folder as a model: which ones are supported, and how their weights are named.

The producer samples from the policy and the learner trains it; both load it here, so that no model is taken by one
and refused by the other.
"""

from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn
from torch.nn.modules.dropout import _DropoutNd
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText

from tristream.runtime.errors import UserError

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
"""Type of weights and activations by the run file's ``model.precision``."""
LOGIT_SCALING_FIELDS = ("final_logit_softcapping", "attn_logit_softcapping", "logit_scale", "logits_scaling")
"""Config fields that change logits outside of the head or inside attention; neither side applies them."""
PLAIN_LAYERS = {"full_attention", "sliding_attention"}
"""Types of layers whose only memory of earlier tokens is one key and one value of each."""
IMAGE_FAMILIES = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen3_vl_moe")
"""Types of models that read images as patches with a grid, and place them by M-RoPE."""
OTHER_FAMILIES = {
    "gpt_oss": "has attention with sinks",
    "diffllama": "has attention that subtracts one half of its heads from the other",
    "doge": "has attention with a mask of its own",
    "gemma4_text": "has layers whose heads differ in size",
}
"""What some types of models have that their configs do not tell."""
PLAIN_MODELS = (
    "take a model of the table in docs/models.md, such as one of the Qwen3-VL, Qwen2.5-VL, Qwen3 or Llama families"
)


def load_config(path: Path) -> Any:  # noqa: ANN401 - transformers has no type for it
    """The config of a checkpoint folder.

    Raises:
        UserError: the folder is no checkpoint.
    """
    if not (path / "config.json").is_file():
        raise UserError("has no config.json", where=_place(path), remedy="give the folder of a Hugging Face checkpoint")
    try:
        return AutoConfig.from_pretrained(path)
    except (OSError, ValueError, KeyError) as error:
        raise _unreadable(error, path) from None


def has_vision(config: Any) -> bool:  # noqa: ANN401 - transformers has no type for it
    """Whether the model of a config takes images."""
    return getattr(config, "vision_config", None) is not None


def require_supported(config: Any, path: Path) -> None:  # noqa: ANN401 - transformers has no type for it
    """Check that producer and learner compute what the model's own forward pass computes, as far as its config tells.

    Raises:
        UserError: they do not, or the model takes images in a way that neither knows; names the model and the reason.
    """
    reason = reason_to_refuse(config)
    if reason:
        raise UserError(f"the {config.model_type} model {reason}", where=_place(path), remedy=PLAIN_MODELS)


def reason_to_refuse(config: Any) -> str:  # noqa: ANN401 - transformers has no type for it
    """What a model has that neither producer nor learner computes, in words; empty if nothing is known."""
    text_config = config.get_text_config()
    scaling = [name for name in LOGIT_SCALING_FIELDS if getattr(text_config, name, None) not in (None, 1, 1.0)]
    if scaling:
        return f"scales its logits ({', '.join(scaling)})"
    others = sorted(set(getattr(text_config, "layer_types", None) or ()) - PLAIN_LAYERS)
    if others:
        return f"has layers with {', '.join(others)}"
    if has_vision(config) and config.model_type not in IMAGE_FAMILIES:
        return f"takes images in another way than {', '.join(IMAGE_FAMILIES)}"
    if getattr(text_config, "kv_lora_rank", None):
        return "has keys and values of different sizes (latent attention)"
    return OTHER_FAMILIES.get(config.model_type) or _reason_of_class(config)


def _reason_of_class(config: Any) -> str:  # noqa: ANN401 - transformers has no type for it
    try:
        model_class = _kind(config)._model_mapping[type(config)]
    except KeyError:
        return "is no causal language model"
    if model_class._is_stateful:
        return "keeps a state besides keys and values"
    if not model_class._supports_attention_backend:
        return "has attention that cannot be replaced"
    return ""


def longest_sequence(config: Any) -> int:  # noqa: ANN401 - transformers has no type for it
    """Most tokens of a sequence: the model's positions, or its sliding window, within which attention is plain."""
    text_config = config.get_text_config()
    most = int(text_config.max_position_embeddings)
    window = getattr(text_config, "sliding_window", None)
    layer_types = getattr(text_config, "layer_types", None)
    is_used = not layer_types or "sliding_attention" in layer_types
    return min(most, int(window)) if window and is_used else most


def load_model(path: Path, precision: str) -> Any:  # noqa: ANN401 - transformers has no type for it
    """The model of a checkpoint folder, with its vision tower if it has one, on the CPU; dropout is off.

    Args:
        path: the folder.
        precision: a key of ``DTYPES``.

    Raises:
        UserError: the folder is no whole checkpoint, or the model is not supported.
    """
    config = load_config(path)
    require_supported(config, path)
    try:
        model = _kind(config).from_pretrained(path, dtype=DTYPES[precision], attn_implementation="sdpa")
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise _unreadable(error, path) from None
    switch_off_dropout(model)
    return model


def switch_off_dropout(model: nn.Module) -> None:
    """Let nothing be dropped in training mode, which recomputation of activations needs.

    Old and new log-probabilities are those of one policy only if the same weights always give the same ones.
    """
    for module in model.modules():
        if isinstance(module, _DropoutNd):
            module.p = 0.0
        for name, value in vars(module).items():
            if "drop" in name and isinstance(value, float):
                setattr(module, name, 0.0)


def checkpoint_name_in_memory(name: str, names: AbstractSet[str]) -> str:
    """What a checkpoint file's parameter is called in a model whose parameters have these names.

    Qwen2.5-VL checkpoints on disk have other prefixes than the model has.
    """
    if name in names:
        return name
    if name.startswith("visual."):
        return f"model.{name}"
    return f"model.language_model.{name.removeprefix('model.')}" if name.startswith("model.") else name


def _kind(config: Any) -> Any:  # noqa: ANN401 - transformers has no type for it
    return AutoModelForImageTextToText if has_vision(config) else AutoModelForCausalLM


def _unreadable(error: Exception, path: Path) -> UserError:
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    return UserError(
        f"no model can be loaded ({reason})",
        where=_place(path),
        remedy="give the folder of a Hugging Face checkpoint with config.json and *.safetensors",
    )


def _place(path: Path) -> str:
    return f"[model] path = {path}"

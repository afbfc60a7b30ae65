"""A checkpoint folder as a model: which ones are supported, and how their weights are named.

The producer samples from the policy and the learner trains it; both load it here, so that no model is taken by one
and refused by the other.
"""

from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText

from tristream.runtime.errors import UserError

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
"""Type of weights and activations by the run file's ``model.precision``."""
LOGIT_SCALING_FIELDS = ("final_logit_softcapping", "attn_logit_softcapping", "logit_scale", "logits_scaling")
"""Config fields that change logits outside of the head or inside attention; neither side applies them."""
PLAIN_MODELS = "take a model without it, such as one of the Qwen2.5-VL, Qwen2.5, Qwen3, Llama or SmolLM2 families"


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
    """Check that log-probabilities are the plain ones of the model's head.

    Raises:
        UserError: the model scales or caps logits.
    """
    text_config = config.get_text_config()
    scaling = [name for name in LOGIT_SCALING_FIELDS if getattr(text_config, name, None) not in (None, 1, 1.0)]
    if scaling:
        raise UserError(f"the model scales its logits ({', '.join(scaling)})", where=_place(path), remedy=PLAIN_MODELS)


def require_full_attention(config: Any, path: Path) -> None:  # noqa: ANN401 - transformers has no type for it
    """Check that every layer sees the whole sequence, which decoding with shared prompts needs.

    Raises:
        UserError: the model has layers of another type, such as a sliding window.
    """
    layer_types = set(getattr(config.get_text_config(), "layer_types", None) or ())
    others = sorted(layer_types - {"full_attention"})
    if others:
        raise UserError(f"the model has layers with {', '.join(others)}", where=_place(path), remedy=PLAIN_MODELS)


def load_model(path: Path, precision: str) -> Any:  # noqa: ANN401 - transformers has no type for it
    """The model of a checkpoint folder, with its vision tower if it has one, on the CPU.

    Args:
        path: the folder.
        precision: a key of ``DTYPES``.

    Raises:
        UserError: the folder is no whole checkpoint, or the model is not supported.
    """
    config = load_config(path)
    require_supported(config, path)
    kind = AutoModelForImageTextToText if has_vision(config) else AutoModelForCausalLM
    try:
        return kind.from_pretrained(path, dtype=DTYPES[precision], attn_implementation="sdpa")
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise _unreadable(error, path) from None


def checkpoint_name_in_memory(name: str, names: AbstractSet[str]) -> str:
    """What a checkpoint file's parameter is called in a model whose parameters have these names.

    Qwen2.5-VL checkpoints on disk have other prefixes than the model has.
    """
    if name in names:
        return name
    if name.startswith("visual."):
        return f"model.{name}"
    return f"model.language_model.{name.removeprefix('model.')}" if name.startswith("model.") else name


def _unreadable(error: Exception, path: Path) -> UserError:
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    return UserError(
        f"no model can be loaded ({reason})",
        where=_place(path),
        remedy="give the folder of a Hugging Face checkpoint with config.json and *.safetensors",
    )


def _place(path: Path) -> str:
    return f"[model] path = {path}"

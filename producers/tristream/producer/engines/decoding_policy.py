"""The policy as a transformers model that prefills prompts and decodes rows.

Works for Qwen2.5-VL checkpoints and for text-only causal language models with plain attention. Prompts
are padded on the right, so that causal attention alone keeps padding out.

Shapes: P prompts, S prompt positions, B rows, V vocabulary.
"""
# ruff: noqa: N803, N806, N815 - names of tensors end in the letters of their shape

from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText, DynamicCache

from tristream.policy.attention.decoding import SHARED_ATTENTION, register_shared_attention
from tristream.policy.attention.decoding_cache import SharedPrefixCache
from tristream.policy.prompt_encoder import banned_token_ids
from tristream.runtime.errors import UserError

LOGIT_CHANGES = ("final_logit_softcapping", "attn_logit_softcapping", "logit_scale", "logits_scaling")
"""Settings of architectures whose attention or logits are not the plain ones computed here."""
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


@dataclass(frozen=True, slots=True, kw_only=True)
class PreparedPrompt:
    """A prompt ready to prefill."""

    tokens: tuple[int, ...]
    pixels: Tensor | None
    """Patches of all its images, or None without images."""
    grid_thw: Tensor | None
    """Patches of each image in time, height and width [images, 3]."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prefilled:
    """Prompts as the model has read them."""

    logits_PV: Tensor
    """Float32 logits of the first completion token; banned tokens are -inf."""
    next_position_P: Tensor
    """Rotary position of the first completion token."""
    cache: SharedPrefixCache


class PolicyModel:
    """One model with one set of weights, on the accelerator if there is one.

    Raises:
        UserError: the checkpoint cannot be read, or its architecture is not supported.
    """

    def __init__(self, model_path: Path, config: Any, precision: str = "fp32") -> None:  # noqa: ANN401
        _require_plain_attention(model_path, config)
        register_shared_attention()
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.has_vision = getattr(config, "vision_config", None) is not None
        kind = AutoModelForImageTextToText if self.has_vision else AutoModelForCausalLM
        try:
            self.model = kind.from_pretrained(model_path, dtype=DTYPES[precision], attn_implementation="sdpa")
        except (OSError, ValueError, SafetensorError) as error:
            reason = str(error).splitlines()[0]
            raise UserError(
                f"cannot be loaded ({reason})", where=str(model_path), remedy="give a whole checkpoint folder"
            ) from None
        self.model.to(self.device).eval().requires_grad_(False)
        self._decoder = self.model.get_decoder()
        self._decoder.config._attn_implementation = SHARED_ATTENTION
        self._embed = self.model.get_input_embeddings()
        self._head = self.model.get_output_embeddings()
        self._banned = torch.tensor(banned_token_ids(config), dtype=torch.long, device=self.device)
        self._image_token = getattr(config, "image_token_id", -1)
        self._pad_token = next(token for token in range(len(self._banned) + 1) if token not in self._banned)
        # A 4-D mask goes through transformers untouched; the shared attention does its own masking.
        self._no_mask = torch.ones(1, 1, 1, 1, dtype=torch.bool, device=self.device)

    def load_weights(self, path: Path) -> None:
        """Replace the parameters by those in a safetensors file.

        Raises:
            ValueError: the file lacks parameters or has others; tied ones may be absent.
        """
        names = set(self.model.state_dict())
        tensors = {_name_in_memory(name, names): tensor for name, tensor in load_file(path).items()}
        outcome = self.model.load_state_dict(tensors, strict=False)
        tied = set(getattr(self.model, "all_tied_weights_keys", None) or ())
        missing = sorted(set(outcome.missing_keys) - tied)
        if missing or outcome.unexpected_keys:
            raise ValueError(f"{path} lacks {missing[:3]} and has unknown {sorted(outcome.unexpected_keys)[:3]}")

    @torch.inference_mode()
    def prefill(self, prompts: Sequence[PreparedPrompt], rows_per_prompt: Sequence[int]) -> Prefilled:
        """Read prompts, all at once, and begin ``rows_per_prompt`` rows for each."""
        lengths_P = torch.tensor([len(prompt.tokens) for prompt in prompts], device=self.device)
        tokens_PS = torch.full((len(prompts), int(lengths_P.max())), self._pad_token, device=self.device)
        for row_S, prompt in zip(tokens_PS, prompts, strict=True):
            row_S[: len(prompt.tokens)] = torch.tensor(prompt.tokens, device=self.device)
        kwargs, next_position_P = self._place(tokens_PS, lengths_P, prompts)
        past = DynamicCache(config=self._decoder.config)
        base = self.model.base_model if self.has_vision else self._decoder
        hidden = base(input_ids=tokens_PS, past_key_values=past, use_cache=True, **kwargs).last_hidden_state
        last = hidden[torch.arange(len(prompts), device=self.device), lengths_P - 1]
        cache = SharedPrefixCache.begin(
            [(layer.keys, layer.values) for layer in past.layers], lengths_P, rows_per_prompt
        )
        return Prefilled(logits_PV=self._logits(last), next_position_P=next_position_P, cache=cache)

    @torch.inference_mode()
    def decode(self, tokens_B: Tensor, position_B: Tensor, cache: SharedPrefixCache) -> Tensor:
        """Read one token a row; return the float32 logits [B, V] of the next."""
        cache.open_column()
        output = self._decoder(
            inputs_embeds=self._embed(tokens_B[:, None]),
            position_ids=position_B[:, None],
            attention_mask=self._no_mask,
            use_cache=False,
            shared_prefix=cache,
        )
        return self._logits(output.last_hidden_state[:, 0])

    def _place(
        self, tokens_PS: Tensor, lengths_P: Tensor, prompts: Sequence[PreparedPrompt]
    ) -> tuple[dict[str, Any], Tensor]:
        """Model arguments that place the tokens, and the position that follows each prompt."""
        columns_S = torch.arange(tokens_PS.shape[1], device=self.device)
        if not self.has_vision:
            return {"position_ids": columns_S.expand_as(tokens_PS)}, lengths_P
        grids = [prompt.grid_thw for prompt in prompts if prompt.grid_thw is not None]
        grid_thw = torch.cat(grids).to(self.device) if grids else None
        positions_3PS, delta_P1 = self.model.base_model.get_rope_index(
            tokens_PS,
            mm_token_type_ids=tokens_PS.eq(self._image_token).int(),
            image_grid_thw=grid_thw,
            attention_mask=(columns_S < lengths_P[:, None]).long(),
        )
        kwargs: dict[str, Any] = {"position_ids": positions_3PS}
        if grid_thw is not None:
            pixels = [prompt.pixels for prompt in prompts if prompt.pixels is not None]
            kwargs |= {"pixel_values": torch.cat(pixels).to(self.device), "image_grid_thw": grid_thw}
        return kwargs, lengths_P + delta_P1[:, 0]

    def _logits(self, hidden: Tensor) -> Tensor:
        logits: Tensor = self._head(hidden).float()
        return logits.index_fill_(1, self._banned, -torch.inf)


def _name_in_memory(name: str, names: AbstractSet[str]) -> str:
    """Name of a parameter in the model; Qwen2.5-VL checkpoints on disk have other prefixes than the model has."""
    if name in names:
        return name
    if name.startswith("visual."):
        return f"model.{name}"
    return f"model.language_model.{name.removeprefix('model.')}" if name.startswith("model.") else name


def _require_plain_attention(model_path: Path, config: Any) -> None:  # noqa: ANN401 - transformers has no type for it
    text_config = config.get_text_config()
    layer_types = set(getattr(text_config, "layer_types", None) or ("full_attention",))
    changed = [name for name in LOGIT_CHANGES if getattr(text_config, name, None) not in (None, 1.0)]
    if layer_types != {"full_attention"} or changed:
        odd = sorted(layer_types - {"full_attention"}) + changed
        raise UserError(
            f"its architecture has {', '.join(odd)}, which the transformers engine does not support",
            where=str(model_path),
            remedy="take a model with plain full attention, such as Qwen2.5-VL, Qwen2.5, Qwen3, Llama or SmolLM2",
        )

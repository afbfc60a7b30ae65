"""The policy as a transformers model that prefills prompts and decodes rows.

Works for Qwen2.5-VL checkpoints and for text-only causal language models with plain attention. Prompts
are padded on the right, so that causal attention alone keeps padding out.

Shapes: P prompts, S prompt positions, B rows, V vocabulary.
"""
# ruff: noqa: N803, N806, N815 - names of tensors end in the letters of their shape

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import DynamicCache

from tristream.policy.attention.decoding import DECODING_ATTENTION, register_decoding_attention
from tristream.policy.attention.decoding_cache import DecodingCache
from tristream.policy.images import ProcessedImage
from tristream.policy.loading import (
    checkpoint_name_in_memory,
    has_vision,
    load_config,
    load_model,
    require_full_attention,
)
from tristream.policy.positions import batch_positions
from tristream.policy.tokens import excluded_token_ids


@dataclass(frozen=True, slots=True, kw_only=True)
class PreparedPrompt:
    """A prompt ready to prefill."""

    tokens: Tensor
    """Shape [tokens], int64, on the CPU."""
    images: tuple[ProcessedImage, ...]
    """The images of its placeholders, in order."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prefilled:
    """Prompts as the model has read them."""

    logits_PV: Tensor
    """Float32 logits of the first completion token; excluded tokens are -inf."""
    next_position_P: Tensor
    """Rotary position of the first completion token."""
    cache: DecodingCache


class DecodingPolicy:
    """One model with one set of weights, on the accelerator if there is one.

    Raises:
        UserError: the checkpoint cannot be read, or its architecture is not supported.
    """

    def __init__(self, model_path: Path, precision: str = "fp32") -> None:
        require_full_attention(load_config(model_path), model_path)
        register_decoding_attention()
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.model = load_model(model_path, precision)
        self.has_vision = has_vision(self.model.config)
        self.model.to(self.device).eval().requires_grad_(False)
        self._decoder = self.model.get_decoder()
        self._decoder.config._attn_implementation = DECODING_ATTENTION
        self._embed = self.model.get_input_embeddings()
        self._head = self.model.get_output_embeddings()
        excluded = excluded_token_ids(self.model.config)
        self._excluded = torch.tensor(excluded, dtype=torch.long, device=self.device)
        self._pad_token = next(token for token in range(len(excluded) + 1) if token not in excluded)
        # A 4-D mask goes through transformers untouched; the decoding attention does its own masking.
        self._no_mask = torch.ones(1, 1, 1, 1, dtype=torch.bool, device=self.device)

    def load_weights(self, path: Path) -> None:
        """Replace the parameters by those in a safetensors file.

        Raises:
            ValueError: the file lacks parameters or has others; tied ones may be absent.
        """
        names = set(self.model.state_dict())
        tensors = {checkpoint_name_in_memory(name, names): tensor for name, tensor in load_file(path).items()}
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
            row_S[: len(prompt.tokens)] = prompt.tokens
        kwargs, next_position_P = self._place(
            tokens_PS, lengths_P, tuple(chain.from_iterable(prompt.images for prompt in prompts))
        )
        past = DynamicCache(config=self._decoder.config)
        base = self.model.base_model if self.has_vision else self._decoder
        hidden = base(input_ids=tokens_PS, past_key_values=past, use_cache=True, **kwargs).last_hidden_state
        last = hidden[torch.arange(len(prompts), device=self.device), lengths_P - 1]
        cache = DecodingCache.begin([(layer.keys, layer.values) for layer in past.layers], lengths_P, rows_per_prompt)
        return Prefilled(logits_PV=self._logits(last), next_position_P=next_position_P, cache=cache)

    @torch.inference_mode()
    def decode(self, tokens_B: Tensor, position_B: Tensor, cache: DecodingCache) -> Tensor:
        """Read one token a row; return the float32 logits [B, V] of the next."""
        cache.open_column()
        output = self._decoder(
            inputs_embeds=self._embed(tokens_B[:, None]),
            position_ids=position_B[:, None],
            attention_mask=self._no_mask,
            use_cache=False,
            decoding_cache=cache,
        )
        return self._logits(output.last_hidden_state[:, 0])

    def _place(
        self, tokens_PS: Tensor, lengths_P: Tensor, images: Sequence[ProcessedImage]
    ) -> tuple[dict[str, Any], Tensor]:
        """Model arguments that place the tokens and images, and the position that follows each prompt."""
        positions_RPS, next_position_P = batch_positions(self.model, tokens_PS, lengths_P, images)
        kwargs: dict[str, Any] = {"position_ids": positions_RPS if self.has_vision else positions_RPS[0]}
        if images:
            kwargs["pixel_values"] = torch.cat([image.pixel_values for image in images]).to(self.device)
            kwargs["image_grid_thw"] = torch.tensor([image.grid_thw for image in images], device=self.device)
        return kwargs, next_position_P

    def _logits(self, hidden: Tensor) -> Tensor:
        logits: Tensor = self._head(hidden).float()
        return logits.index_fill_(1, self._excluded, -torch.inf)

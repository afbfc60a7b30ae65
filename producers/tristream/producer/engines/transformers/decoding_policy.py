"""The policy as a transformers model that prefills prompts and decodes rows.

Works for the models that ``tristream.policy.loading`` takes. Prompts are padded on the right, so that causal
attention alone keeps padding out.

Shapes: P prompts, S prompt positions, B rows, V vocabulary.
"""
# ruff: noqa: N803, N806, N815 - names of tensors end in the letters of their shape

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from transformers import DynamicCache

from tristream.policy.attention.decoding import DECODING_ATTENTION, register_decoding_attention
from tristream.policy.attention.decoding_cache import DecodingCache, Prefix
from tristream.policy.images import ProcessedImage
from tristream.policy.loading import checkpoint_name_in_memory, has_vision, load_model
from tristream.policy.positions import batch_positions
from tristream.policy.tokens import excluded_token_ids, token_tensor
from tristream.producer.engines.transformers.image_features import ImageFeatures
from tristream.wire.arrays import Tokens

VISION_TOWER = "visual."
"""What names of parameters of all vision towers have (``IMAGE_FAMILIES``)."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False, weakref_slot=True)
class PreparedPrompt:
    """A prompt ready to prefill; requests that share one share what the model has read of it."""

    tokens: Tokens
    """As the model reads them: image placeholders expanded."""
    images: tuple[ProcessedImage, ...]
    """The images of its placeholders, in order."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prefilled:
    """A prompt as the model has read it."""

    prefix: Prefix
    logits_V: Tensor
    """Float32 logits of the first completion token; excluded tokens are -inf."""
    next_position: int
    """Rotary position of the first completion token."""


class DecodingPolicy:
    """One model with one set of weights, on the accelerator if there is one.

    Raises:
        UserError: the checkpoint cannot be read, or its architecture is not supported.
    """

    def __init__(self, model_path: Path, precision: str = "fp32") -> None:
        register_decoding_attention()
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.model = load_model(model_path, precision)
        self.has_vision = has_vision(self.model.config)
        self.model.to(self.device).eval().requires_grad_(False)
        self._decoder = self.model.get_decoder()
        self._decoder.config._attn_implementation = DECODING_ATTENTION
        self.image_features = ImageFeatures(self.model.base_model, self.device)
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
            ValueError: the file lacks parameters or has others, or they are of other shapes, and none was replaced;
                tied ones may be absent.
        """
        own = self.model.state_dict()
        tensors = {checkpoint_name_in_memory(name, own.keys()): tensor for name, tensor in _read(path).items()}
        tied = set(getattr(self.model, "all_tied_weights_keys", None) or ())
        missing = sorted(own.keys() - tensors.keys() - tied)
        unknown = sorted(tensors.keys() - own.keys())
        if missing or unknown:
            raise ValueError(f"{path} lacks {missing[:3]} and has unknown {unknown[:3]}")
        others = [name for name, tensor in tensors.items() if tensor.shape != own[name].shape]
        if others:
            raise ValueError(f"{path} has other shapes than the model for {sorted(others)[:3]}")
        if any(not _is_same(own[name], tensor) for name, tensor in tensors.items() if VISION_TOWER in name):
            self.image_features.clear()
        with torch.no_grad():
            for name, tensor in tensors.items():
                own[name].copy_(tensor)

    @torch.inference_mode()
    def prefill(self, prompts: Sequence[PreparedPrompt]) -> list[Prefilled]:
        """Read prompts, all at once."""
        lengths = [len(prompt.tokens) for prompt in prompts]
        tokens_PS = torch.full((len(prompts), max(lengths)), self._pad_token)
        for row_S, prompt in zip(tokens_PS, prompts, strict=True):
            row_S[: len(prompt.tokens)] = token_tensor(prompt.tokens)
        tokens_PS, lengths_P = tokens_PS.to(self.device), torch.tensor(lengths, device=self.device)
        images = tuple(chain.from_iterable(prompt.images for prompt in prompts))
        kwargs, next_position_P = self._place(tokens_PS, lengths_P, images)
        # Without the config it holds every key: prompts fit into sliding windows (``longest_sequence``).
        past = DynamicCache()
        base = self.model.base_model if self.has_vision else self._decoder
        with self.image_features.given(images) if images else nullcontext():
            hidden = base(input_ids=tokens_PS, past_key_values=past, use_cache=True, **kwargs).last_hidden_state
        logits_PV = self._logits(hidden[torch.arange(len(prompts), device=self.device), lengths_P - 1])
        states = [states for layer in past.layers for states in (layer.keys, layer.values)]
        return [
            Prefilled(
                prefix=Prefix(torch.stack([each[number, :, :length] for each in states])),
                logits_V=logits_PV[number].clone(),
                next_position=position,
            )
            for number, (length, position) in enumerate(zip(lengths, next_position_P.tolist(), strict=True))
        ]

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
            # That there are images; what they are is in their features.
            kwargs["pixel_values"] = torch.zeros(0, device=self.device)
        return kwargs, next_position_P

    def _logits(self, hidden: Tensor) -> Tensor:
        logits: Tensor = self._head(hidden).float()
        return logits.index_fill_(1, self._excluded, -torch.inf)


def _is_same(own: Tensor, other: Tensor) -> bool:
    return torch.equal(own, other.to(own.device, own.dtype))


def _read(path: Path) -> dict[str, Tensor]:
    try:
        tensors: dict[str, Tensor] = load_file(path)
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from None
    return tensors

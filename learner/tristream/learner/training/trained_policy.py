"""The policy: a Hugging Face checkpoint, frozen where the run file says so, that scores packed rows.

Parameters keep their Hugging Face names. A frozen vision tower runs without gradient and in evaluation
mode. The whole of the logits never exists: the decoder's hidden states go through the head in chunks.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tristream.learner.training.logprobs import completion_logprobs, placeholder_token_ids
from tristream.learner.training.packing import MicroBatch, PackingRules
from tristream.policy.attention.packing import ATTENTION_NAME, shared_prefix_attention
from tristream.policy.images import ProcessedImage
from tristream.runtime.errors import UserError

UNSUPPORTED_FIELDS = ("final_logit_softcapping", "logits_scaling", "logit_scale", "attn_logit_softcapping")
"""Config fields that change the logits outside of the head, which this learner does not apply."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ParameterCounts:
    """How many parameters are trained and how many stay as they are."""

    trained: int
    frozen: int


class PolicyModel(nn.Module):
    """Scores the completion tokens of micro-batches."""

    excluded: Tensor
    """Shape [excluded], ids of tokens that are never sampled."""

    def __init__(self, checkpoint: nn.Module, *, logprob_chunk_tokens: int) -> None:
        """Wrap a transformers model; its decoder's attention becomes the packed one."""
        super().__init__()
        from transformers import AttentionInterface

        AttentionInterface.register(ATTENTION_NAME, shared_prefix_attention)
        self.checkpoint: Any = checkpoint
        self.decoder.config._attn_implementation = ATTENTION_NAME
        self._chunk_tokens = logprob_chunk_tokens
        self.excluded_ids = placeholder_token_ids(checkpoint.config)
        self.register_buffer("excluded", torch.tensor(self.excluded_ids, dtype=torch.long), persistent=False)

    @property
    def decoder(self) -> Any:  # noqa: ANN401 - a transformers model without types
        """The text decoder, from embeddings to hidden states."""
        return self.checkpoint.get_decoder()

    @property
    def vision_tower(self) -> nn.Module | None:
        """The vision tower; None in a text model."""
        tower: nn.Module | None = getattr(getattr(self.checkpoint, "model", None), "visual", None)
        return tower

    def packing_rules(self) -> PackingRules:
        """What packing must know of this model."""
        tower = self.vision_tower
        merge = 1 if tower is None else int(self.checkpoint.config.vision_config.spatial_merge_size)
        return PackingRules(
            prompt_positions=self._text_positions if tower is None else self._image_positions,
            image_token_id=None if tower is None else int(self.checkpoint.config.image_token_id),
            excluded_ids=self.excluded_ids,
            tokens_per_image=lambda image: image.num_patches // merge**2,
        )

    def forward(self, micro_batch: MicroBatch) -> tuple[Tensor, Tensor]:
        """Log-probability [completion tokens], with gradient, and entropy [completion tokens], without."""
        embeddings = self.checkpoint.get_input_embeddings()(micro_batch.input_ids)
        if micro_batch.images:
            features = self._features(micro_batch.images).to(embeddings.dtype)[micro_batch.image_features]
            embeddings = embeddings.index_copy(1, micro_batch.image_positions, features[None])
        output = self.decoder(
            inputs_embeds=embeddings,
            position_ids=micro_batch.positions,
            use_cache=False,
            prefix_layout=micro_batch.layout,
        )
        return completion_logprobs(
            output.last_hidden_state[0, micro_batch.predictors],
            self.checkpoint.get_output_embeddings(),
            micro_batch.targets,
            micro_batch.temperatures,
            excluded_ids=self.excluded,
            chunk_tokens=self._chunk_tokens,
        )

    def train(self, mode: bool = True) -> "PolicyModel":
        """Set training mode, except for a frozen vision tower."""
        super().train(mode)
        if self.vision_tower is not None and not self._trains_vision():
            self.vision_tower.eval()
        return self

    def _trains_vision(self) -> bool:
        return self.vision_tower is not None and any(p.requires_grad for p in self.vision_tower.parameters())

    def _features(self, images: Sequence[ProcessedImage]) -> Tensor:
        """Features of the images, one after the other: shape [features, hidden]."""
        device = self.excluded.device
        pixel_values = torch.cat([image.pixel_values for image in images]).to(device)
        grid = torch.tensor([image.grid_thw for image in images], device=device)
        with torch.set_grad_enabled(self._trains_vision() and torch.is_grad_enabled()):
            features = self.checkpoint.model.get_image_features(pixel_values, grid).pooler_output
        return torch.cat(tuple(features)) if isinstance(features, tuple | list) else features

    @staticmethod
    def _text_positions(prompt: Tensor, _images: Sequence[ProcessedImage]) -> Tensor:
        return torch.arange(len(prompt))[None]

    def _image_positions(self, prompt: Tensor, images: Sequence[ProcessedImage]) -> Tensor:
        if not images:
            return torch.arange(len(prompt)).expand(3, -1)
        kinds = (prompt == self.checkpoint.config.image_token_id).int()
        grid = torch.tensor([image.grid_thw for image in images])
        positions, _ = self.checkpoint.model.get_rope_index(prompt[None], kinds[None], image_grid_thw=grid)
        rows: Tensor = positions[:, 0]
        return rows


def load_policy(path: Path, *, precision: str, freeze: Iterable[str], logprob_chunk_tokens: int) -> PolicyModel:
    """Load a checkpoint folder and freeze the parameters whose names start with a prefix of ``freeze``.

    Raises:
        UserError: the folder is no checkpoint, the model is not supported, or a prefix matches nothing.
    """
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText

    try:
        config = AutoConfig.from_pretrained(path)
        loader = AutoModelForImageTextToText if hasattr(config, "vision_config") else AutoModelForCausalLM
        dtype = torch.bfloat16 if precision == "bf16" else torch.float32
        checkpoint = loader.from_pretrained(path, dtype=dtype, attn_implementation="sdpa")
    except (OSError, ValueError, KeyError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(
            f"no model can be loaded ({reason})",
            where=f"[model] path = {path}",
            remedy="give the folder of a Hugging Face checkpoint with config.json and *.safetensors",
        ) from None
    _require_supported(config, path)
    freeze_parameters(checkpoint, freeze)
    return PolicyModel(checkpoint, logprob_chunk_tokens=logprob_chunk_tokens)


def freeze_parameters(checkpoint: nn.Module, prefixes: Iterable[str]) -> ParameterCounts:
    """Freeze the parameters whose names start with a prefix.

    Raises:
        UserError: a prefix matches no parameter, or no parameter is left to train.
    """
    parameters = dict(checkpoint.named_parameters())
    for prefix in prefixes:
        matching = [name for name in parameters if name.startswith(prefix)]
        if not matching:
            roots = sorted({".".join(name.split(".")[:2]) + "." for name in parameters})
            raise UserError(
                f"'{prefix}' matches no parameter of the model",
                where="[model] freeze",
                remedy=f"use a prefix of a parameter name; names start with {', '.join(roots)}",
            )
        for name in matching:
            parameters[name].requires_grad_(False)
    counts = count_parameters(checkpoint)
    if counts.trained == 0:
        raise UserError("every parameter is frozen", where="[model] freeze", remedy="freeze less")
    return counts


def count_parameters(model: nn.Module) -> ParameterCounts:
    """Number of trained and of frozen parameters; right under ZeRO 3 too, where a rank holds only a part."""
    size: Callable[[Any], int] = lambda p: int(getattr(p, "ds_numel", p.numel()))  # noqa: E731
    parameters = list(model.parameters())
    return ParameterCounts(
        trained=sum(size(p) for p in parameters if p.requires_grad),
        frozen=sum(size(p) for p in parameters if not p.requires_grad),
    )


def _require_supported(config: Any, path: Path) -> None:  # noqa: ANN401 - a transformers config without types
    text_config = config.get_text_config()
    for field in UNSUPPORTED_FIELDS:
        if getattr(text_config, field, None) not in (None, 1, 1.0):
            raise UserError(
                f"the model scales its logits ('{field}'), which the learner does not support",
                where=f"[model] path = {path}",
                remedy="train a model without it, such as one of the Qwen2.5-VL, Qwen2.5 or Llama families",
            )

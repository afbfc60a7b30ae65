"""The policy under training: frozen where the run file says so, it scores packed rows.

Parameters keep their Hugging Face names. A frozen vision tower runs without gradient and in evaluation
mode. The whole of the logits never exists: the decoder's hidden states go through the head in chunks.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tristream.learner.training.logprobs import target_logprobs
from tristream.learner.training.packing import MicroBatch
from tristream.learner.training.sequences import PackingRules
from tristream.policy.attention.packing import ATTENTION_NAME, register_packed_attention
from tristream.policy.images import ProcessedImage, num_image_tokens
from tristream.policy.loading import load_model
from tristream.policy.positions import sequence_positions
from tristream.policy.tokens import excluded_token_ids, image_token_id
from tristream.runtime.errors import UserError


@dataclass(frozen=True, slots=True, kw_only=True)
class ParameterCounts:
    """How many parameters are trained and how many stay as they are."""

    trained: int
    frozen: int


class TrainedPolicy(nn.Module):
    """Scores the sampled tokens of micro-batches."""

    excluded: Tensor
    """Shape [excluded], ids of tokens that are never sampled."""

    def __init__(self, checkpoint: nn.Module, *, logprob_chunk_tokens: int) -> None:
        """Wrap a transformers model; its decoder's attention becomes the packed one."""
        super().__init__()
        register_packed_attention()
        self.checkpoint: Any = checkpoint
        self.decoder.config._attn_implementation = ATTENTION_NAME
        self._chunk_tokens = logprob_chunk_tokens
        self.excluded_ids = excluded_token_ids(checkpoint.config)
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
        return PackingRules(
            positions=partial(sequence_positions, self.checkpoint),
            image_token_id=image_token_id(self.checkpoint.config),
            excluded_ids=self.excluded_ids,
            tokens_per_image=partial(num_image_tokens, self.checkpoint.config),
        )

    def forward(self, micro_batch: MicroBatch) -> tuple[Tensor, Tensor]:
        """Log-probability [targets], with gradient, and entropy [targets], without."""
        output = self.decoder(
            **self._inputs(micro_batch),
            position_ids=micro_batch.positions,
            use_cache=False,
            prefix_layout=micro_batch.layout,
        )
        return target_logprobs(
            output.last_hidden_state[0, micro_batch.predictors],
            self.checkpoint.get_output_embeddings(),
            micro_batch.targets,
            micro_batch.temperatures,
            excluded_ids=self.excluded,
            chunk_tokens=self._chunk_tokens,
        )

    def train(self, mode: bool = True) -> "TrainedPolicy":
        """Set training mode, except for a frozen vision tower."""
        super().train(mode)
        if self.vision_tower is not None and not self._trains_vision():
            self.vision_tower.eval()
        return self

    def _trains_vision(self) -> bool:
        return self.vision_tower is not None and any(p.requires_grad for p in self.vision_tower.parameters())

    def _inputs(self, micro_batch: MicroBatch) -> dict[str, Any]:
        """What the decoder reads: embeddings with the features of images in their places, and what it adds there later.

        The features that the decoder adds behind its first layers are those of DeepStack (Meng et al., 2024), which
        Qwen3-VL has.
        """
        embeddings = self.checkpoint.get_input_embeddings()(micro_batch.input_ids)
        if not micro_batch.images:
            return {"inputs_embeds": embeddings}
        features, of_layers = self._features(micro_batch.images)
        placed = features.to(embeddings.dtype)[micro_batch.image_features]
        inputs = {"inputs_embeds": embeddings.index_copy(1, micro_batch.image_positions, placed[None])}
        if of_layers:
            is_visual = torch.zeros_like(micro_batch.input_ids, dtype=torch.bool)
            is_visual[0, micro_batch.image_positions] = True
            # The decoder takes them in the order of the row.
            rows = micro_batch.image_features[micro_batch.image_positions.argsort()]
            inputs["visual_pos_masks"] = is_visual
            inputs["deepstack_visual_embeds"] = [of_layer[rows] for of_layer in of_layers]
        return inputs

    def _features(self, images: Sequence[ProcessedImage]) -> tuple[Tensor, Sequence[Tensor]]:
        """Features of the images, one after the other, [features, hidden], and those for each of the first layers."""
        device = self.excluded.device
        pixel_values = torch.cat([image.pixel_values for image in images]).to(device)
        grid = torch.tensor([image.grid_thw for image in images], device=device)
        with torch.set_grad_enabled(self._trains_vision() and torch.is_grad_enabled()):
            output = self.checkpoint.model.get_image_features(pixel_values, grid)
        features = output.pooler_output
        whole = torch.cat(tuple(features)) if isinstance(features, tuple | list) else features
        return whole, getattr(output, "deepstack_features", None) or ()


def load_policy(path: Path, *, precision: str, freeze: Iterable[str], logprob_chunk_tokens: int) -> TrainedPolicy:
    """Load a checkpoint folder and freeze the parameters whose names start with a prefix of ``freeze``.

    Raises:
        UserError: the folder is no checkpoint, the model is not supported, or a prefix matches nothing.
    """
    checkpoint = load_model(path, precision)
    freeze_parameters(checkpoint, freeze)
    return TrainedPolicy(checkpoint, logprob_chunk_tokens=logprob_chunk_tokens)


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

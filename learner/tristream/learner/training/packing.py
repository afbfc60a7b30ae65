"""Packing: the groups of one rank become micro-batches, as many as every rank runs.

A micro-batch is one row of units, ``[prefix | tail | tail | ... | prefix | ...]`` (see ``units`` and the policy's
packed attention). The hidden state of a position predicts the token after it: a prefix position may predict for
several rollouts, and positions before tokens that were given predict nothing. The last token of a rollout is left
out. Each image is held once in a micro-batch. The result depends on nothing but the input. A rank that has fewer
micro-batches than others, or no rollout at all, runs fillers of one token, which count for nothing.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from tristream.learner.training.planning import plan_units, plan_within
from tristream.learner.training.sequences import (
    PackingRules,
    PlacedImage,
    RolloutKey,
    TrainingSequence,
    make_sequences,
)
from tristream.learner.training.units import Unit, make_units
from tristream.policy.attention.packing import PrefixLayout, build_layout
from tristream.policy.images import ProcessedImage
from tristream.wire.batches import TrainingGroup


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class MicroBatch:
    """One packed row and what the loss needs; targets are the sampled tokens, in the order of ``rollouts``."""

    input_ids: Tensor
    """Shape [1, tokens]."""
    positions: Tensor
    """Shape [1, tokens], or [3, 1, tokens] for M-RoPE."""
    layout: PrefixLayout
    images: tuple[ProcessedImage, ...]
    """Images of the micro-batch, each once."""
    image_positions: Tensor
    """Shape [image tokens], where in the row the placeholders are."""
    image_features: Tensor
    """Shape [image tokens], which row of the concatenated features of ``images`` stands there."""
    predictors: Tensor
    """Shape [targets], the position whose hidden state predicts each."""
    targets: Tensor
    """Shape [targets], ids of the sampled tokens."""
    is_trained: Tensor
    """Shape [targets], bool; False for tokens that the policy cannot sample."""
    old_logprobs: Tensor
    """Shape [targets], behaviour log-probabilities."""
    advantages: Tensor
    """Shape [targets]."""
    temperatures: Tensor
    """Shape [targets]."""
    rollout_lengths: Tensor
    """Shape [rollouts], targets of each rollout."""
    rollouts: tuple[RolloutKey, ...]
    reference_logprobs: Tensor | None = None
    """Shape [targets], under a policy that the trained one should stay near; for algorithms that need it."""
    proximal_logprobs: Tensor | None = None
    """Shape [targets], under the policy before the update; for algorithms that need it."""
    is_filler: bool = False
    """Whether it only keeps this rank in step with others and counts for nothing."""

    @property
    def num_tokens(self) -> int:
        """Tokens the model computes."""
        return self.input_ids.shape[1]

    def to(self, device: torch.device) -> "MicroBatch":
        """The micro-batch on a device; images follow when their features are computed."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        moved: dict[str, Any] = {
            name: value.to(device) for name, value in values.items() if isinstance(value, Tensor | PrefixLayout)
        }
        return replace(self, **moved)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Stretch:
    """One unit as a part of a row; all positions count from its own beginning."""

    tokens: Tensor
    positions: Tensor
    """Shape [rows, tokens]."""
    predictors: Tensor
    images: tuple[PlacedImage, ...]
    """Images of the prefix once, and of each tail."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PackingPlan:
    """Which rollouts of this rank are computed together."""

    micro_batches: tuple[tuple[Unit, ...], ...]
    """Units of each micro-batch; one without units becomes a filler."""


def plan_groups(
    groups: Sequence[TrainingGroup],
    images: Mapping[str, ProcessedImage],
    advantages: Mapping[RolloutKey, float],
    max_tokens: int,
    rules: PackingRules,
) -> PackingPlan:
    """Plan the micro-batches of one rank, as few as a budget of tokens allows (see ``plan_within``).

    Args:
        groups: the groups of the rank; none is a plan without micro-batches.
        images: the processed images of all groups by sha256.
        advantages: the advantage of each rollout.
        max_tokens: most tokens that the model computes in one micro-batch.
        rules: what packing must know of the model.

    Raises:
        ValueError: placeholders of a group do not match its images, or a rollout begins with a sampled token;
            names the group.
    """
    plan = plan_within(_units_of(groups, images, advantages, rules), max_tokens)
    return PackingPlan(micro_batches=tuple(tuple(units) for units in plan))


def pack_plan(plan: PackingPlan, num_micro_batches: int, rules: PackingRules) -> list[MicroBatch]:
    """The micro-batches of a plan, and fillers up to ``num_micro_batches``, the most that any rank has planned."""
    fillers = [()] * max(0, num_micro_batches - len(plan.micro_batches))
    return [_pack(units, rules) if units else make_filler(rules) for units in (*plan.micro_batches, *fillers)]


def pack_groups(
    groups: Sequence[TrainingGroup],
    images: Mapping[str, ProcessedImage],
    advantages: Mapping[RolloutKey, float],
    num_micro_batches: int,
    rules: PackingRules,
) -> list[MicroBatch]:
    """Pack the groups of one rank into exactly ``num_micro_batches`` micro-batches, however many tokens those have.

    Args:
        groups: the groups of the rank; without any all micro-batches are fillers.
        images: the processed images of all groups by sha256.
        advantages: the advantage of each rollout.
        num_micro_batches: micro-batches that every rank runs.
        rules: what packing must know of the model.

    Raises:
        ValueError: as ``plan_groups``.
    """
    plan = plan_units(_units_of(groups, images, advantages, rules), num_micro_batches)
    return pack_plan(PackingPlan(micro_batches=tuple(tuple(units) for units in plan)), num_micro_batches, rules)


def make_filler(rules: PackingRules) -> MicroBatch:
    """A micro-batch of two tokens, one read and one predicted, from which no gradient comes."""
    tokens = torch.zeros(2, dtype=torch.long)
    sequence = TrainingSequence(
        key=RolloutKey(group_number=-1, index=0),
        tokens=tokens,
        sampled_at=torch.tensor([1]),
        logprobs=torch.zeros(1),
        images=(),
        content=tokens,
        temperature=1.0,
        advantage=0.0,
    )
    filler = _pack([Unit.of([sequence])], rules)
    return replace(filler, is_filler=True, is_trained=torch.zeros_like(filler.is_trained))


def _units_of(
    groups: Sequence[TrainingGroup],
    images: Mapping[str, ProcessedImage],
    advantages: Mapping[RolloutKey, float],
    rules: PackingRules,
) -> list[Unit]:
    return [unit for group in groups for unit in make_units(make_sequences(group, images, advantages, rules))]


def _pack(units: Sequence[Unit], rules: PackingRules) -> MicroBatch:
    stretches = [_pack_unit(unit, rules) for unit in units]
    starts = [0]
    for unit in units:
        starts.append(starts[-1] + unit.num_tokens)
    positions = torch.cat([stretch.positions for stretch in stretches], dim=1)
    placed = [
        replace(one, start=one.start + start)
        for stretch, start in zip(stretches, starts, strict=False)
        for one in stretch.images
    ]
    sequences = [sequence for unit in units for sequence in unit.sequences]
    return MicroBatch(
        input_ids=torch.cat([stretch.tokens for stretch in stretches])[None],
        positions=positions if positions.shape[0] == 1 else positions[:, None, :],
        layout=build_layout([(unit.prefix_length, unit.tail_lengths) for unit in units]),
        predictors=torch.cat([s.predictors + start for s, start in zip(stretches, starts, strict=False)]),
        rollouts=tuple(sequence.key for sequence in sequences),
        **_image_inputs(placed),
        **_loss_inputs(sequences, rules),
    )


def _pack_unit(unit: Unit, rules: PackingRules) -> _Stretch:
    length, first = unit.prefix_length, unit.sequences[0]
    of_prefix = first.positions(rules, length)
    tokens, positions = [first.tokens[:length]], [of_prefix]
    images = [placed for placed in first.images if placed.start < length]
    predictors: list[Tensor] = []
    start = length
    for sequence, num_own in zip(unit.sequences, unit.tail_lengths, strict=True):
        row = torch.cat([torch.arange(length), torch.arange(start, start + num_own)])
        predictors.append(row[sequence.sampled_at - 1])
        tokens.append(sequence.tokens[length:-1])
        own_images = [placed for placed in sequence.images if placed.start >= length]
        images.extend(replace(placed, start=placed.start - length + start) for placed in own_images)
        if own_images:
            positions.append(sequence.positions(rules, sequence.num_inputs)[:, length:])
        else:
            positions.append((of_prefix.max() + 1 + torch.arange(num_own)).expand(len(of_prefix), -1))
        start += num_own
    return _Stretch(
        tokens=torch.cat(tokens),
        positions=torch.cat(positions, dim=1),
        predictors=torch.cat(predictors),
        images=tuple(images),
    )


def _image_inputs(placed: Iterable[PlacedImage]) -> dict[str, Any]:
    """Unique images, where their placeholders are, and which feature row each placeholder takes."""
    unique: dict[str, ProcessedImage] = {}
    first_row: dict[str, int] = {}
    positions: list[Tensor] = [torch.zeros(0, dtype=torch.long)]
    features: list[Tensor] = [torch.zeros(0, dtype=torch.long)]
    num_features = 0
    for one in placed:
        key = one.image.sha256
        if key not in unique:
            unique[key], first_row[key] = one.image, num_features
            num_features += one.num_tokens
        positions.append(torch.arange(one.num_tokens) + one.start)
        features.append(torch.arange(one.num_tokens) + first_row[key])
    return {
        "images": tuple(unique.values()),
        "image_positions": torch.cat(positions),
        "image_features": torch.cat(features),
    }


def _loss_inputs(sequences: Sequence[TrainingSequence], rules: PackingRules) -> dict[str, Any]:
    lengths = torch.tensor([len(sequence.sampled_at) for sequence in sequences])
    targets = torch.cat([sequence.tokens[sequence.sampled_at] for sequence in sequences])
    advantages = torch.tensor([sequence.advantage for sequence in sequences], dtype=torch.float32)
    temperatures = torch.tensor([sequence.temperature for sequence in sequences], dtype=torch.float32)
    return {
        "targets": targets,
        "is_trained": ~torch.isin(targets, torch.tensor(rules.excluded_ids, dtype=torch.long)),
        "old_logprobs": torch.cat([sequence.logprobs for sequence in sequences]),
        "advantages": advantages.repeat_interleave(lengths),
        "temperatures": temperatures.repeat_interleave(lengths),
        "rollout_lengths": lengths,
    }

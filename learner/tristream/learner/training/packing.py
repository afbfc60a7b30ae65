"""Packing: the groups of one rank become exactly as many micro-batches as every rank runs.

The prompt and the images of a group are held once for all of its rollouts (see ``shared_prefix``), and
the last token of a completion is left out, because nothing is predicted from it. Micro-batches are
balanced by the tokens that remain. A group is split only where there are more micro-batches than groups
can fill; each part then repeats the prompt. The result depends on nothing but the input.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from tristream.policy.attention.packing import PrefixLayout, build_layout
from tristream.policy.images import ProcessedImage
from tristream.wire.batches import TrainingGroup, TrainingRollout

PromptPositions = Callable[[Tensor, Sequence[ProcessedImage]], Tensor]
"""Positions of a prompt [tokens] with these images: shape [rows, tokens], rows 1, or 3 for M-RoPE."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PackingRules:
    """What packing must know of the model."""

    prompt_positions: PromptPositions
    image_token_id: int | None
    """Placeholder of one image feature; None for a text model."""
    excluded_ids: tuple[int, ...]
    """Tokens that are never sampled; a completion that has one anyway is not trained on it."""
    tokens_per_image: Callable[[ProcessedImage], int]
    """How many placeholders an image has."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Unit:
    """Some rollouts of one group, with the prompt they share."""

    group: TrainingGroup
    rollouts: tuple[TrainingRollout, ...]

    @property
    def prompt_tokens(self) -> tuple[int, ...]:
        """The shared prompt."""
        return self.rollouts[0].prompt_tokens

    @property
    def num_tokens(self) -> int:
        """Tokens the model computes for it."""
        return len(self.prompt_tokens) + sum(max(0, len(r.completion_tokens) - 1) for r in self.rollouts)


@dataclass(frozen=True, slots=True, kw_only=True)
class MicroBatch:
    """One packed row and what the loss needs; completion tokens come in the order of ``rollouts``."""

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
    """Shape [completion tokens], the position whose hidden state predicts each."""
    targets: Tensor
    """Shape [completion tokens], ids."""
    is_trained: Tensor
    """Shape [completion tokens], bool; False for tokens that the policy cannot sample."""
    old_logprobs: Tensor
    """Shape [completion tokens], behaviour log-probabilities."""
    advantages: Tensor
    """Shape [completion tokens]."""
    temperatures: Tensor
    """Shape [completion tokens]."""
    rollouts: tuple[TrainingRollout, ...]
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


def plan_units(groups: Sequence[TrainingGroup], num_micro_batches: int) -> list[list[Unit]]:
    """Distribute the rollouts over exactly ``num_micro_batches`` micro-batches, balanced by tokens.

    Returns:
        The units of each micro-batch, in the order of the groups; a list is empty where there are fewer
        rollouts than micro-batches.
    """
    units = [Unit(group=group, rollouts=group.rollouts) for group in groups if group.rollouts]
    while len(units) < num_micro_batches:
        divisible = [index for index, unit in enumerate(units) if len(unit.rollouts) > 1]
        if not divisible:
            break
        position = max(divisible, key=lambda index: units[index].num_tokens)
        group, rollouts = units[position].group, units[position].rollouts
        middle = len(rollouts) // 2
        units[position : position + 1] = [
            Unit(group=group, rollouts=rollouts[:middle]),
            Unit(group=group, rollouts=rollouts[middle:]),
        ]
    bins: list[list[int]] = [[] for _ in range(num_micro_batches)]
    loads = [0] * num_micro_batches
    for index in sorted(range(len(units)), key=lambda i: (-units[i].num_tokens, i)):
        lightest = min(range(num_micro_batches), key=lambda b: (loads[b], len(bins[b]), b))
        bins[lightest].append(index)
        loads[lightest] += units[index].num_tokens
    return [[units[index] for index in sorted(indices)] for indices in bins]


def pack_groups(
    groups: Sequence[TrainingGroup],
    images: Sequence[Sequence[ProcessedImage]],
    num_micro_batches: int,
    rules: PackingRules,
) -> list[MicroBatch]:
    """Pack the groups of one rank into exactly ``num_micro_batches`` micro-batches.

    Args:
        groups: the groups of the rank, with at least one rollout among them.
        images: the processed images of each group, in placeholder order.
        num_micro_batches: micro-batches that every rank runs.
        rules: what packing must know of the model.

    Raises:
        ValueError: the placeholders of a group do not match its images, or its prompt is empty; names the group.
    """
    images_of_group = {group.group.number: tuple(of_group) for group, of_group in zip(groups, images, strict=True)}
    plan = plan_units(groups, num_micro_batches)
    fallback = next(units for units in plan if units)[:1]
    return [_pack_units(units or fallback, images_of_group, rules, is_filler=not units) for units in plan]


def _pack_units(
    units: Sequence[Unit],
    images_of_group: dict[int, tuple[ProcessedImage, ...]],
    rules: PackingRules,
    *,
    is_filler: bool,
) -> MicroBatch:
    tokens: list[int] = []
    predictors: list[Tensor] = [torch.zeros(0, dtype=torch.long)]
    positions: list[Tensor] = []
    for unit in units:
        prompt = torch.tensor(unit.prompt_tokens, dtype=torch.long)
        of_prompt = _check_prompt(unit, prompt, images_of_group[unit.group.group.number], rules)
        last_of_prompt = len(tokens) + len(prompt) - 1
        tokens.extend(unit.prompt_tokens)
        positions.append(of_prompt)
        next_position = of_prompt.max() + 1
        for rollout in filter(lambda r: r.completion_tokens, unit.rollouts):
            inputs = rollout.completion_tokens[:-1]
            own = torch.arange(len(tokens), len(tokens) + len(inputs))
            predictors.append(torch.cat([torch.tensor([last_of_prompt]), own]))
            positions.append((next_position + torch.arange(len(inputs))).expand(of_prompt.shape[0], -1))
            tokens.extend(inputs)
    rollouts = tuple(rollout for unit in units for rollout in unit.rollouts)
    row = torch.cat(positions, dim=1)
    unique, image_positions, image_features = _place_images(units, images_of_group, rules)
    lengths = [(len(u.prompt_tokens), [max(0, len(r.completion_tokens) - 1) for r in u.rollouts]) for u in units]
    return MicroBatch(
        input_ids=torch.tensor([tokens], dtype=torch.long),
        positions=row if row.shape[0] == 1 else row[:, None, :],
        layout=build_layout(lengths),
        images=unique,
        image_positions=image_positions,
        image_features=image_features,
        predictors=torch.cat(predictors),
        rollouts=rollouts,
        is_filler=is_filler,
        **_loss_inputs(rollouts, rules),
    )


def _loss_inputs(rollouts: Sequence[TrainingRollout], rules: PackingRules) -> dict[str, Tensor]:
    lengths = torch.tensor([len(rollout.completion_tokens) for rollout in rollouts])
    targets = torch.tensor([token for r in rollouts for token in r.completion_tokens], dtype=torch.long)
    return {
        "targets": targets,
        "is_trained": ~torch.isin(targets, torch.tensor(rules.excluded_ids, dtype=torch.long)),
        "old_logprobs": torch.tensor([value for r in rollouts for value in r.logprobs], dtype=torch.float32),
        "advantages": torch.tensor([r.advantage for r in rollouts], dtype=torch.float32).repeat_interleave(lengths),
        "temperatures": torch.tensor([r.temperature for r in rollouts], dtype=torch.float32).repeat_interleave(lengths),
    }


def _check_prompt(unit: Unit, prompt: Tensor, images: Sequence[ProcessedImage], rules: PackingRules) -> Tensor:
    """Positions of the prompt, after checking that it has one placeholder for each image feature."""
    name = unit.group.group.id
    if not len(prompt):
        raise ValueError(f"group {name} has an empty prompt")
    if any(rollout.prompt_tokens != unit.prompt_tokens for rollout in unit.rollouts):
        raise ValueError(f"the rollouts of group {name} have different prompts")
    num_placeholders = 0 if rules.image_token_id is None else int((prompt == rules.image_token_id).sum())
    num_features = sum(rules.tokens_per_image(image) for image in images)
    if num_placeholders != num_features:
        raise ValueError(
            f"group {name} has {num_placeholders} image placeholder tokens, but its {len(images)} images "
            f"have {num_features} features"
        )
    return rules.prompt_positions(prompt, images)


def _place_images(
    units: Sequence[Unit], images_of_group: dict[int, tuple[ProcessedImage, ...]], rules: PackingRules
) -> tuple[tuple[ProcessedImage, ...], Tensor, Tensor]:
    """Unique images, where their placeholders are, and which feature row each placeholder takes."""
    unique: dict[str, ProcessedImage] = {}
    first_row: dict[str, int] = {}
    positions: list[Tensor] = [torch.zeros(0, dtype=torch.long)]
    features: list[Tensor] = [torch.zeros(0, dtype=torch.long)]
    num_features, start = 0, 0
    for unit in units:
        images = images_of_group[unit.group.group.number]
        if images:
            prompt = torch.tensor(unit.prompt_tokens, dtype=torch.long)
            positions.append(torch.isin(prompt, torch.tensor(rules.image_token_id)).nonzero().flatten() + start)
        for image in images:
            count = rules.tokens_per_image(image)
            if image.sha256 not in unique:
                unique[image.sha256], first_row[image.sha256] = image, num_features
                num_features += count
            features.append(torch.arange(count) + first_row[image.sha256])
        start += unit.num_tokens
    return tuple(unique.values()), torch.cat(positions), torch.cat(features)

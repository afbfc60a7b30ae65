"""Rollouts as sequences: tensors over the packed bytes, with what was sampled and where images stand.

Given and sampled segments follow each other in any order. A sequence ends with its last sampled token: what was
given after it predicts nothing. Two sequences share a prefix as far as the model reads the same: the same token,
or a feature of the same image.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tristream.policy.images import ProcessedImage
from tristream.wire.batches import TrainingGroup, TrainingRollout
from tristream.wire.events import Segment

CHECKSUM_DIGITS = 15
"""Hex digits of an image's checksum that tell it from others; they fit into an int64."""
SAMPLED = -1
"""Stands for a sampled token where only given placeholders matter."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PackingRules:
    """What packing must know of the model."""

    positions: Callable[[Tensor, Sequence[ProcessedImage]], Tensor]
    """Positions of tokens [tokens] with these images: shape [rows, tokens], rows 1, or 3 for M-RoPE."""
    image_token_id: int | None
    """Placeholder of one image feature; None for a text model."""
    excluded_ids: tuple[int, ...]
    """Tokens that are never sampled; a rollout that has one anyway is not trained on it."""
    tokens_per_image: Callable[[ProcessedImage], int]
    """How many placeholders an image has."""


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class RolloutKey:
    """Which rollout of a batch it is."""

    group_number: int
    index: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PlacedImage:
    """One image where its placeholders are."""

    image: ProcessedImage
    start: int
    """Position of its first placeholder in the sequence."""
    num_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TrainingSequence:
    """One rollout as the model reads it, up to its last sampled token."""

    key: RolloutKey
    tokens: Tensor
    """Shape [tokens], int64; the last one is sampled and so never an input."""
    sampled_at: Tensor
    """Shape [sampled], int64: positions of the sampled tokens, ascending and above 0."""
    logprobs: Tensor
    """Shape [sampled], float32: behaviour log-probabilities."""
    images: tuple[PlacedImage, ...]
    content: Tensor
    """Shape [tokens], int64: what the model reads, a token id or, below zero, an image."""
    temperature: float
    advantage: float

    @property
    def num_inputs(self) -> int:
        """Tokens that the model reads."""
        return len(self.tokens) - 1

    def positions(self, rules: PackingRules, num_tokens: int) -> Tensor:
        """Positions of the first tokens: shape [rows, tokens]; a sampled placeholder stands for no image."""
        tokens = self.tokens.index_fill(0, self.sampled_at, SAMPLED)[:num_tokens]
        return rules.positions(tokens, [placed.image for placed in self.images if placed.start < num_tokens])


def make_sequences(
    group: TrainingGroup,
    images: Mapping[str, ProcessedImage],
    advantages: Mapping[RolloutKey, float],
    rules: PackingRules,
) -> list[TrainingSequence]:
    """The rollouts of a group as sequences; those of which nothing was sampled predict nothing and have none.

    Args:
        group: the group.
        images: its processed images by sha256.
        advantages: the advantage of each of its rollouts.
        rules: what packing must know of the model.

    Raises:
        ValueError: placeholders do not match images, or a rollout begins with a sampled token; names the group.
    """
    sequences = [_make_sequence(rollout, group, images, advantages, rules) for rollout in group.rollouts]
    return [sequence for sequence in sequences if sequence is not None]


def common_prefix_length(sequences: Sequence[TrainingSequence]) -> int:
    """How many inputs all sequences begin with alike; it never ends within an image."""
    common = sequences[0].content[: min(sequence.num_inputs for sequence in sequences)]
    for other in sequences[1:]:
        differing = (common != other.content[: len(common)]).nonzero()
        common = common[: int(differing[0])] if len(differing) else common
    return len(common)


def _make_sequence(
    rollout: TrainingRollout,
    group: TrainingGroup,
    images: Mapping[str, ProcessedImage],
    advantages: Mapping[RolloutKey, float],
    rules: PackingRules,
) -> TrainingSequence | None:
    segments = _up_to_the_last_sampled(rollout.segments)
    if not segments:
        return None
    if segments[0].is_sampled:
        raise ValueError(f"rollout {rollout.index} of group {group.group.id} begins with a sampled token")
    tokens = _int32(segment.tokens.data for segment in segments).long()
    is_sampled = torch.tensor([segment.is_sampled for segment in segments])
    lengths = torch.tensor([len(segment.tokens) for segment in segments])
    placed = _place_images(segments, tokens, images, group, rules)
    content = tokens.clone()
    for one in placed:
        content[one.start : one.start + one.num_tokens] = -1 - int(one.image.sha256[:CHECKSUM_DIGITS], 16)
    logprobs = bytearray().join(segment.logprobs.data for segment in segments)
    key = RolloutKey(group_number=group.group.number, index=rollout.index)
    return TrainingSequence(
        key=key,
        tokens=tokens,
        sampled_at=is_sampled.repeat_interleave(lengths).nonzero().flatten(),
        logprobs=torch.frombuffer(logprobs, dtype=torch.float32),
        images=placed,
        content=content,
        temperature=rollout.temperature,
        advantage=advantages[key],
    )


def _up_to_the_last_sampled(segments: Sequence[Segment]) -> list[Segment]:
    """The segments that are not empty, without those that were given after the last sampled one."""
    filled = [segment for segment in segments if len(segment.tokens)]
    while filled and not filled[-1].is_sampled:
        filled.pop()
    return filled


def _int32(parts: Iterable[bytes]) -> Tensor:
    return torch.frombuffer(bytearray().join(parts), dtype=torch.int32)


def _place_images(
    segments: Sequence[Segment],
    tokens: Tensor,
    images: Mapping[str, ProcessedImage],
    group: TrainingGroup,
    rules: PackingRules,
) -> tuple[PlacedImage, ...]:
    placed: list[PlacedImage] = []
    start = 0
    for segment in segments:
        end = start + len(segment.tokens)
        if not segment.is_sampled:
            of_segment = [images[image.sha256] for image in segment.images]
            placed.extend(_place_in_segment(of_segment, tokens[start:end], start, group, rules))
        start = end
    return tuple(placed)


def _place_in_segment(
    images: Sequence[ProcessedImage], tokens: Tensor, start: int, group: TrainingGroup, rules: PackingRules
) -> list[PlacedImage]:
    counts = [rules.tokens_per_image(image) for image in images]
    is_placeholder = torch.zeros_like(tokens) if rules.image_token_id is None else tokens == rules.image_token_id
    placeholders = is_placeholder.nonzero().flatten().tolist()
    if len(placeholders) != sum(counts):
        raise ValueError(
            f"group {group.group.id} has {len(placeholders)} image placeholder tokens in a segment, but its "
            f"{len(images)} images have {sum(counts)} features"
        )
    placed: list[PlacedImage] = []
    for image, count in zip(images, counts, strict=True):
        first = placeholders[sum(one.num_tokens for one in placed)]
        placed.append(PlacedImage(image=image, start=start + first, num_tokens=count))
    return placed

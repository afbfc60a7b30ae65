"""Scored groups of any shape, and their outcomes, built in code for a vocabulary of 64."""

import hashlib
import io
import random
from collections.abc import Sequence

import torch
from PIL import Image as PillowImage
from torch import Tensor

from tristream.learner.training.packing import MicroBatch
from tristream.learner.training.sequences import PackingRules, RolloutKey, make_sequences
from tristream.learner.training.units import Unit, make_units
from tristream.wire.arrays import LogProbs, Tokens
from tristream.wire.batches import TrainingGroup, TrainingRollout
from tristream.wire.events import (
    Fate,
    Group,
    Image,
    Outcome,
    RolloutOutcome,
    Segment,
    Split,
    VersionSpan,
    given,
    sampled,
)

IMAGE_TOKEN, VIDEO_TOKEN, VISION_START, VISION_END = 60, 61, 62, 63
CELL_PIXELS = 28


def make_image(generator: random.Random) -> Image:
    width, height = (CELL_PIXELS * generator.randint(1, 3) for _ in range(2))
    picture = PillowImage.frombytes("RGB", (width, height), generator.randbytes(width * height * 3))
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG")
    data = buffer.getvalue()
    return Image(media_type="image/png", sha256=hashlib.sha256(data).hexdigest(), size_bytes=len(data), data=data)


def make_given(generator: random.Random, num_images: int = 0) -> Segment:
    """A few tokens with images between them."""
    images = tuple(make_image(generator) for _ in range(num_images))
    return given_with(generator, images)


def given_with(generator: random.Random, images: Sequence[Image]) -> Segment:
    tokens = [generator.randrange(2, 60) for _ in range(generator.randint(1, 6))]
    for image in images:
        width, height = PillowImage.open(io.BytesIO(image.data)).size
        tokens += [VISION_START, *[IMAGE_TOKEN] * ((width // CELL_PIXELS) * (height // CELL_PIXELS)), VISION_END]
        tokens += [generator.randrange(2, 60) for _ in range(generator.randint(1, 6))]
    return given(Tokens.of(tokens), tuple(images))


def sampled_as(tokens: Sequence[int], logprobs: Sequence[float] | None = None) -> Segment:
    spans = (VersionSpan(version=0, start=0, end=len(tokens)),)
    return sampled(Tokens.of(tokens), LogProbs.of(logprobs or [-1.0] * len(tokens)), spans)


def make_sampled(generator: random.Random) -> Segment:
    length = generator.choice([1, 2, 5, 9])
    tokens = [generator.randrange(1, 60) for _ in range(length)]
    return sampled_as(tokens, [-generator.uniform(1.0, 6.0) for _ in range(length)])


def make_rollout(index: int, segments: Sequence[Segment], temperature: float = 1.0) -> TrainingRollout:
    return TrainingRollout(index=index, segments=tuple(segments), temperature=temperature)


def wrap_rollouts(number: int, rollouts: Sequence[TrainingRollout], run: str = "test") -> TrainingGroup:
    group = Group(run=run, split=Split.TRAIN, number=number, source="shapes", sample_id=str(number), size=len(rollouts))
    return TrainingGroup(group=group, rollouts=tuple(rollouts))


def make_group(
    generator: random.Random, number: int, *, size: int, num_images: int, run: str, num_turns: int = 1
) -> TrainingGroup:
    """Rollouts of one prompt with 1 to ``num_turns`` turns each; later turns bring at most one image."""
    prompt = make_given(generator, num_images)
    rollouts = []
    for index in range(size):
        segments = [prompt, make_sampled(generator)]
        for _ in range(generator.randint(0, num_turns - 1)):
            segments += [make_given(generator, generator.randint(0, min(1, num_images))), make_sampled(generator)]
        rollouts.append(make_rollout(index, segments, generator.choice([0.7, 1.0, 1.3])))
    return wrap_rollouts(number, rollouts, run)


def make_outcome(generator: random.Random, group: TrainingGroup, step: int) -> Outcome:
    """The outcome of a group as the assembler gives it: rewards and ages, no advantages."""
    return Outcome(
        group=group.group,
        fate=Fate.TRAINED,
        step=step,
        rollouts=tuple(
            RolloutOutcome(index=rollout.index, valid=True, reward=generator.random(), age=rollout.index % 2)
            for rollout in group.rollouts
        ),
        oldest_version=0,
        created_ns=1,
    )


def make_groups(
    count: int,
    *,
    size: int = 4,
    num_images: int = 1,
    seed: int = 0,
    first: int = 0,
    run: str = "test",
    num_turns: int = 1,
) -> tuple[TrainingGroup, ...]:
    generator = random.Random(seed)
    return tuple(
        make_group(generator, first + number, size=size, num_images=num_images, run=run, num_turns=num_turns)
        for number in range(count)
    )


TEXT_RULES = PackingRules(
    positions=lambda tokens, _images: torch.arange(len(tokens))[None],
    image_token_id=None,
    excluded_ids=(),
    tokens_per_image=lambda image: image.num_patches,
)


def key_of(group: TrainingGroup, rollout: TrainingRollout) -> RolloutKey:
    return RolloutKey(group_number=group.group.number, index=rollout.index)


def advantages_of(groups: Sequence[TrainingGroup]) -> dict[RolloutKey, float]:
    return {key_of(group, rollout): 1.0 + rollout.index for group in groups for rollout in group.rollouts}


def tokens_of(rollout: TrainingRollout) -> list[int]:
    return [token for segment in rollout.segments for token in segment.tokens.to_list()]


def is_sampled_of(rollout: TrainingRollout) -> list[bool]:
    return [segment.is_sampled for segment in rollout.segments for _ in range(len(segment.tokens))]


def split_scores(micro_batch: MicroBatch, logprobs: Tensor) -> dict[RolloutKey, Tensor]:
    parts = torch.split(logprobs, micro_batch.rollout_lengths.tolist())
    return dict(zip(micro_batch.rollouts, parts, strict=True))


def units_of(group: TrainingGroup) -> list[Unit]:
    return make_units(make_sequences(group, {}, advantages_of([group]), TEXT_RULES))

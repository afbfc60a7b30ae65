"""Rollouts as a verifier reads them: the answer and what it is judged by, without tokens and log-probabilities.

Decoding the arrays would cost more than all the rest, and holding them most of the memory.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from tristream.rollouts.v1 import rollout_pb2
from tristream.wire.arrays import ITEM_BYTES, Tokens
from tristream.wire.codecs.base import Codec, enum_from_number, require
from tristream.wire.codecs.samples import (
    group_from_message,
    image_from_message,
    messages_from_message,
    progress_from_message,
    reward_spec_from_message,
)
from tristream.wire.events import FinishReason, Rollout, given
from tristream.wire.topics import ROLLOUTS, Topic

SAMPLED = rollout_pb2.SegmentKind.Value("SEGMENT_KIND_SAMPLED")


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A rollout without its arrays."""

    rollout: Rollout
    """Of its segments the images are kept alone."""
    num_prompt_tokens: int
    """Tokens given before anything was sampled."""
    num_sampled_tokens: int


def _answer_from_bytes(data: bytes) -> Answer:
    message = rollout_pb2.Rollout.FromString(data)
    group = group_from_message(message.group)
    require(0 <= message.index < group.size, f"rollout has index {message.index} in a group of {group.size}")
    images = tuple(image_from_message(image) for segment in message.segments for image in segment.images)
    num_prompt_tokens, num_sampled_tokens = _count_tokens(message.segments)
    rollout = Rollout(
        group=group,
        index=message.index,
        segments=(given(Tokens(), images),),
        text=message.text,
        finish_reason=enum_from_number(
            FinishReason, message.finish_reason, "FINISH_REASON", rollout_pb2.FinishReason.Name
        ),
        prompt_text=message.prompt_text,
        reward=reward_spec_from_message(message.reward),
        progress=progress_from_message(message.progress),
        temperature=message.temperature,
        queued_seconds=message.timings.queued_seconds,
        generate_seconds=message.timings.generate_seconds,
        producer=message.producer,
        prompt_digest=message.prompt_digest,
        error=message.error,
        messages=messages_from_message(message.messages),
        created_ns=message.created_ns,
    )
    return Answer(rollout=rollout, num_prompt_tokens=num_prompt_tokens, num_sampled_tokens=num_sampled_tokens)


def _count_tokens(segments: Iterable[rollout_pb2.Segment]) -> tuple[int, int]:
    """Tokens before the first sampled segment, and sampled ones, by the lengths of the arrays."""
    num_prompt_tokens = num_sampled_tokens = 0
    has_sampled = False
    for segment in segments:
        num_tokens = len(segment.tokens.data) // ITEM_BYTES
        if segment.kind == SAMPLED:
            has_sampled = True
            num_sampled_tokens += num_tokens
        elif not has_sampled:
            num_prompt_tokens += num_tokens
    return num_prompt_tokens, num_sampled_tokens


def _no_message(_answer: Answer) -> rollout_pb2.Rollout:
    raise TypeError("an answer has lost its arrays: it cannot be written")


ANSWERS: Topic[Answer] = Topic(
    name=ROLLOUTS.name,
    codec=Codec(_no_message, _answer_from_bytes),
    key=lambda answer: ROLLOUTS.key(answer.rollout),
    headers=lambda answer: ROLLOUTS.headers(answer.rollout),
)
"""The rollouts topic, for reading."""

"""Rollouts as a verifier reads them: the answer and what it is judged by, without tokens and log-probabilities.

Decoding the arrays would cost more than all the rest, and holding them most of the memory.
"""

from dataclasses import replace

from tristream.rollouts.v1 import rollout_pb2
from tristream.wire.arrays import Tokens
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


def _answer_from_bytes(data: bytes) -> Rollout:
    message = rollout_pb2.Rollout.FromString(data)
    group = group_from_message(message.group)
    require(0 <= message.index < group.size, f"rollout has index {message.index} in a group of {group.size}")
    images = tuple(image_from_message(image) for segment in message.segments for image in segment.images)
    return Rollout(
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


ANSWERS: Topic[Rollout] = replace(ROLLOUTS, codec=Codec(ROLLOUTS.codec.to_message, _answer_from_bytes))
"""The rollouts topic; of a rollout's segments its images are kept alone."""

"""Codecs of rollouts and their segments."""

from typing import TypeVar

from tristream.rollouts.v1 import rollout_pb2
from tristream.wire import events
from tristream.wire.arrays import LogProbs, PackedArray, Tokens
from tristream.wire.codecs.base import Codec, MalformedEventError, enum_from_number, require, require_finite
from tristream.wire.codecs.samples import (
    group_from_message,
    group_to_message,
    image_from_message,
    image_to_message,
    messages_from_message,
    messages_to_message,
    progress_from_message,
    progress_to_message,
    reward_spec_from_message,
    reward_spec_to_message,
)

ArrayT = TypeVar("ArrayT", bound=PackedArray)


def array_to_message(values: PackedArray) -> rollout_pb2.Array:
    """Packed array as protobuf; its bytes are taken as they are."""
    return rollout_pb2.Array(dtype=values.dtype, data=values.data)


def array_from_message(message: rollout_pb2.Array, kind: type[ArrayT]) -> ArrayT:
    """Packed array from protobuf; its elements are not decoded."""
    require(message.dtype == kind.dtype, f"array has dtype '{message.dtype}', wanted '{kind.dtype}'")
    try:
        return kind(message.data)
    except ValueError as error:
        raise MalformedEventError(str(error)) from None


def segment_to_message(segment: events.Segment) -> rollout_pb2.Segment:
    """Segment as protobuf."""
    return rollout_pb2.Segment(
        kind=rollout_pb2.SegmentKind.Value(f"SEGMENT_KIND_{segment.kind.name}"),
        tokens=array_to_message(segment.tokens),
        logprobs=array_to_message(segment.logprobs) if segment.is_sampled else None,
        version_spans=[
            rollout_pb2.VersionSpan(version=span.version, start=span.start, end=span.end)
            for span in segment.version_spans
        ],
        images=[image_to_message(image) for image in segment.images],
    )


def segment_from_message(
    message: rollout_pb2.Segment, images: tuple[events.Image, ...] | None = None
) -> events.Segment:
    """Segment from protobuf; ``images`` replace those of the message."""
    kind = enum_from_number(events.SegmentKind, message.kind, "SEGMENT_KIND", rollout_pb2.SegmentKind.Name)
    tokens = array_from_message(message.tokens, Tokens)
    if images is None:
        images = tuple(image_from_message(image) for image in message.images)
    if kind is events.SegmentKind.GIVEN:
        is_plain = not message.HasField("logprobs") and not message.version_spans
        require(is_plain, "a given segment has log-probabilities or version spans")
        return events.given(tokens, images)
    logprobs = array_from_message(message.logprobs, LogProbs)
    require(len(tokens) == len(logprobs), f"segment has {len(tokens)} sampled tokens and {len(logprobs)} logprobs")
    require(logprobs.is_finite, "a log-probability is not finite")
    require(not images, "a sampled segment has images")
    spans = tuple(
        events.VersionSpan(version=span.version, start=span.start, end=span.end) for span in message.version_spans
    )
    for span in spans:
        is_inside = 0 <= span.start < span.end <= len(tokens)
        require(is_inside, f"version span {span.start} to {span.end} is not within {len(tokens)} tokens")
    return events.sampled(tokens, logprobs, spans)


def _rollout_to_message(rollout: events.Rollout) -> rollout_pb2.Rollout:
    return rollout_pb2.Rollout(
        group=group_to_message(rollout.group),
        index=rollout.index,
        segments=[segment_to_message(segment) for segment in rollout.segments],
        text=rollout.text,
        finish_reason=rollout_pb2.FinishReason.Value(f"FINISH_REASON_{rollout.finish_reason.name}"),
        prompt_text=rollout.prompt_text,
        reward=reward_spec_to_message(rollout.reward),
        progress=progress_to_message(rollout.progress),
        temperature=rollout.temperature,
        timings=rollout_pb2.Timings(queued_seconds=rollout.queued_seconds, generate_seconds=rollout.generate_seconds),
        producer=rollout.producer,
        prompt_digest=rollout.prompt_digest,
        error=rollout.error,
        messages=messages_to_message(rollout.messages),
        created_ns=rollout.created_ns,
    )


def _rollout_from_bytes(data: bytes) -> events.Rollout:
    message = rollout_pb2.Rollout.FromString(data)
    group = group_from_message(message.group)
    require(0 <= message.index < group.size, f"rollout has index {message.index} in a group of {group.size}")
    segments = tuple(segment_from_message(segment) for segment in message.segments)
    begins_given = not segments or (not segments[0].is_sampled and len(segments[0].tokens) > 0)
    require(begins_given, "rollout does not begin with given tokens")
    require_finite("temperature", message.temperature)
    return events.Rollout(
        group=group,
        index=message.index,
        segments=segments,
        text=message.text,
        finish_reason=enum_from_number(
            events.FinishReason, message.finish_reason, "FINISH_REASON", rollout_pb2.FinishReason.Name
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


ROLLOUT = Codec(_rollout_to_message, _rollout_from_bytes)

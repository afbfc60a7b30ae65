"""Codecs of the batch service, and the readable form in which a checkpoint keeps a commit.

Every ``*_from_message`` raises ``MalformedEventError`` on a message that is not valid, so that a half-filled
batch is never trained. The images of a group travel once, however many of its segments hold them.
"""

from collections.abc import Iterable, Mapping

from google.protobuf import json_format

from tristream.batches.v1 import batch_service_pb2
from tristream.samples.v1 import sample_pb2
from tristream.wire import batches, events
from tristream.wire.codecs.base import MalformedEventError, require, require_finite
from tristream.wire.codecs.ledgers import (
    ledger_from_message,
    ledger_to_message,
    position_from_message,
    position_to_message,
)
from tristream.wire.codecs.outcomes import outcome_from_message, outcome_to_message
from tristream.wire.codecs.rollouts import segment_from_message, segment_to_message
from tristream.wire.codecs.samples import (
    group_from_message,
    group_to_message,
    image_from_message,
    image_to_message,
)

# Batches -----------------------------------------------------------------------------------------


def batch_to_message(batch: batches.Batch | batches.NotReady) -> batch_service_pb2.NextBatchResponse:
    """Answer to ``NextBatch`` as protobuf."""
    if isinstance(batch, batches.NotReady):
        return batch_service_pb2.NextBatchResponse(ready=False, waiting_for=batch.waiting_for)
    return batch_service_pb2.NextBatchResponse(
        ready=True,
        groups=[training_group_to_message(group) for group in batch.groups],
        outcomes=[outcome_to_message(outcome) for outcome in batch.outcomes],
        num_global_tokens=batch.num_global_tokens,
        num_global_rollouts=batch.num_global_rollouts,
        dropped=batch.dropped,
        position=position_to_message(batch.position),
    )


def batch_from_message(
    message: batch_service_pb2.NextBatchResponse, *, step: int, rank: int
) -> batches.Batch | batches.NotReady:
    """Answer to ``NextBatch(step, rank)`` from protobuf."""
    if not message.ready:
        return batches.NotReady(waiting_for=message.waiting_for)
    require(message.num_global_tokens >= 1, f"batch has {message.num_global_tokens} global tokens")
    return batches.Batch(
        step=step,
        rank=rank,
        groups=tuple(training_group_from_message(group) for group in message.groups),
        outcomes=tuple(outcome_from_message(outcome) for outcome in message.outcomes),
        num_global_tokens=message.num_global_tokens,
        num_global_rollouts=message.num_global_rollouts,
        dropped=tuple(message.dropped),
        position=position_from_message(message.position),
    )


def training_group_to_message(group: batches.TrainingGroup) -> batch_service_pb2.TrainingGroup:
    """Scored group as protobuf."""
    images = {image.sha256: image for rollout in group.rollouts for image in rollout.images}
    return batch_service_pb2.TrainingGroup(
        group=group_to_message(group.group),
        images=[image_to_message(image) for image in images.values()],
        rollouts=[_rollout_to_message(rollout) for rollout in group.rollouts],
    )


def training_group_from_message(message: batch_service_pb2.TrainingGroup) -> batches.TrainingGroup:
    """Scored group from protobuf."""
    images = {image.sha256: image_from_message(image) for image in message.images}
    return batches.TrainingGroup(
        group=group_from_message(message.group),
        rollouts=tuple(_rollout_from_message(rollout, images) for rollout in message.rollouts),
    )


def _rollout_to_message(rollout: batches.TrainingRollout) -> batch_service_pb2.TrainingRollout:
    message = batch_service_pb2.TrainingRollout(
        index=rollout.index,
        temperature=rollout.temperature,
        segments=[segment_to_message(segment) for segment in rollout.segments],
        is_truncated=rollout.is_truncated,
    )
    for segment in message.segments:
        for image in segment.images:
            image.CopyFrom(sample_pb2.Image(sha256=image.sha256))
    return message


def _rollout_from_message(
    message: batch_service_pb2.TrainingRollout, images: Mapping[str, events.Image]
) -> batches.TrainingRollout:
    require(message.temperature > 0, f"rollout {message.index} has temperature {message.temperature}")
    require_finite("temperature", message.temperature)
    segments = tuple(
        segment_from_message(segment, _find_images(segment.images, images)) for segment in message.segments
    )
    has_sampled = any(segment.is_sampled for segment in segments)
    require(has_sampled, f"rollout {message.index} has no sampled segment")
    return batches.TrainingRollout(
        index=message.index,
        segments=segments,
        temperature=message.temperature,
        is_truncated=message.is_truncated,
    )


def _find_images(wanted: Iterable[sample_pb2.Image], images: Mapping[str, events.Image]) -> tuple[events.Image, ...]:
    found = []
    for image in wanted:
        require(image.sha256 in images, f"group has no image {image.sha256[:12]}")
        found.append(images[image.sha256])
    return tuple(found)


# Commits -----------------------------------------------------------------------------------------


def commit_to_message(commit: batches.Commit) -> batch_service_pb2.CommitRequest:
    """Commit as protobuf."""
    return batch_service_pb2.CommitRequest(
        steps=[
            batch_service_pb2.CommittedStep(
                step=step.step, outcomes=[outcome_to_message(outcome) for outcome in step.outcomes]
            )
            for step in commit.steps
        ],
        ledger=ledger_to_message(commit.ledger),
    )


def commit_from_message(message: batch_service_pb2.CommitRequest) -> batches.Commit:
    """Commit from protobuf."""
    require(message.HasField("ledger"), "commit has no ledger")
    return batches.Commit(
        ledger=ledger_from_message(message.ledger),
        steps=tuple(
            batches.CommittedStep(
                step=step.step, outcomes=tuple(outcome_from_message(outcome) for outcome in step.outcomes)
            )
            for step in message.steps
        ),
    )


def commit_to_json(commit: batches.Commit) -> str:
    """Commit as readable JSON, as a checkpoint keeps it."""
    text: str = json_format.MessageToJson(commit_to_message(commit), preserving_proto_field_name=True)
    return text


def commit_from_json(text: str) -> batches.Commit:
    """Commit from JSON.

    Raises:
        MalformedEventError: the text is not a valid commit.
    """
    try:
        message = json_format.Parse(text, batch_service_pb2.CommitRequest())
    except json_format.ParseError as error:
        raise MalformedEventError(f"not a commit: {error}") from None
    return commit_from_message(message)

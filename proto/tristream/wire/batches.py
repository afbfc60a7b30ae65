"""Values and codecs of the batch service, shared by the assembler and the learner.

Protobuf never leaves this module: both ends handle the frozen dataclasses below. Every ``*_from_message``
raises ``MalformedEventError`` on a message that is not valid, so that a half-filled batch is never trained.
"""

from dataclasses import dataclass

from tristream.batches.v1 import batch_service_pb2
from tristream.wire import codecs, events
from tristream.wire.codecs import require
from tristream.wire.ledger import Ledger, PartitionOffset


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingRollout:
    """One rollout as the learner trains it."""

    group_number: int
    index: int
    prompt_tokens: tuple[int, ...]
    """Prompt token ids with image placeholders expanded."""
    completion_tokens: tuple[int, ...]
    logprobs: tuple[float, ...]
    """Behaviour log-probability of each completion token, in nats."""
    reward: float
    advantage: float
    temperature: float
    age: int
    """Trained version minus the oldest version of its tokens."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingGroup:
    """One scored group: its valid rollouts, and what its outcome will say."""

    group: events.Group
    images: tuple[events.Image, ...]
    """Images shared by its rollouts, in placeholder order."""
    rollouts: tuple[TrainingRollout, ...]
    outcomes: tuple[events.RolloutOutcome, ...]
    oldest_version: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """The shard of one rank for one step, with what all ranks must agree on."""

    step: int
    rank: int
    groups: tuple[TrainingGroup, ...]
    """Groups of this rank; group numbers ascend."""
    num_global_tokens: int
    """Completion tokens of the whole batch over all ranks."""
    num_global_rollouts: int
    dropped: tuple[int, ...]
    """Group numbers dropped since the batch before, which this step settles too."""
    trained: tuple[int, ...]
    """Numbers of all groups of the batch over all ranks."""
    offsets: tuple[PartitionOffset, ...]
    """Where reading must start once this batch is settled."""
    num_micro_batches: int
    """Micro-batches every rank must run, so that collectives match."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NotReady:
    """There is no batch yet."""

    waiting_for: str
    """What the batch waits for, in words."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CommittedStep:
    """The groups one step trained, with their outcomes."""

    step: int
    outcomes: tuple[events.Outcome, ...]


# Ledger ------------------------------------------------------------------------------------------


def ledger_to_message(ledger: Ledger) -> batch_service_pb2.Ledger:
    """Ledger as protobuf."""
    return batch_service_pb2.Ledger(
        step=ledger.step,
        settled=codecs.intervals_to_messages(ledger.settled),
        dropped=codecs.intervals_to_messages(ledger.dropped),
        offsets=[_offset_to_message(offset) for offset in ledger.offsets],
    )


def ledger_from_message(message: batch_service_pb2.Ledger) -> Ledger:
    """Ledger from protobuf."""
    require(message.step >= 0, f"ledger has step {message.step}")
    return Ledger(
        step=message.step,
        settled=codecs.intervals_from_messages(message.settled),
        dropped=codecs.intervals_from_messages(message.dropped),
        offsets=tuple(_offset_from_message(offset) for offset in message.offsets),
    )


def _offset_to_message(offset: PartitionOffset) -> batch_service_pb2.PartitionOffset:
    return batch_service_pb2.PartitionOffset(topic=offset.topic, partition=offset.partition, offset=offset.offset)


def _offset_from_message(message: batch_service_pb2.PartitionOffset) -> PartitionOffset:
    require(bool(message.topic), "partition offset has no topic")
    return PartitionOffset(topic=message.topic, partition=message.partition, offset=message.offset)


# Batches -----------------------------------------------------------------------------------------


def batch_to_message(batch: Batch | NotReady) -> batch_service_pb2.NextBatchResponse:
    """Answer to ``NextBatch`` as protobuf."""
    if isinstance(batch, NotReady):
        return batch_service_pb2.NextBatchResponse(ready=False, waiting_for=batch.waiting_for)
    return batch_service_pb2.NextBatchResponse(
        ready=True,
        groups=[group_to_message(group) for group in batch.groups],
        num_global_tokens=batch.num_global_tokens,
        num_global_rollouts=batch.num_global_rollouts,
        dropped=batch.dropped,
        trained=batch.trained,
        offsets=[_offset_to_message(offset) for offset in batch.offsets],
        num_micro_batches=batch.num_micro_batches,
    )


def batch_from_message(message: batch_service_pb2.NextBatchResponse, *, step: int, rank: int) -> Batch | NotReady:
    """Answer to ``NextBatch(step, rank)`` from protobuf."""
    if not message.ready:
        return NotReady(waiting_for=message.waiting_for)
    require(message.num_micro_batches >= 1, f"batch has {message.num_micro_batches} micro-batches")
    require(message.num_global_tokens >= 1, f"batch has {message.num_global_tokens} global tokens")
    return Batch(
        step=step,
        rank=rank,
        groups=tuple(group_from_message(group) for group in message.groups),
        num_global_tokens=message.num_global_tokens,
        num_global_rollouts=message.num_global_rollouts,
        dropped=tuple(message.dropped),
        trained=tuple(message.trained),
        offsets=tuple(_offset_from_message(offset) for offset in message.offsets),
        num_micro_batches=message.num_micro_batches,
    )


def group_to_message(group: TrainingGroup) -> batch_service_pb2.TrainingGroup:
    """Scored group as protobuf."""
    return batch_service_pb2.TrainingGroup(
        group=codecs.group_to_message(group.group),
        images=[codecs.image_to_message(image) for image in group.images],
        rollouts=[_rollout_to_message(rollout) for rollout in group.rollouts],
        outcomes=[codecs.rollout_outcome_to_message(outcome) for outcome in group.outcomes],
        oldest_version=group.oldest_version,
    )


def group_from_message(message: batch_service_pb2.TrainingGroup) -> TrainingGroup:
    """Scored group from protobuf."""
    return TrainingGroup(
        group=codecs.group_from_message(message.group),
        images=tuple(codecs.image_from_message(image) for image in message.images),
        rollouts=tuple(_rollout_from_message(rollout) for rollout in message.rollouts),
        outcomes=tuple(codecs.rollout_outcome_from_message(outcome) for outcome in message.outcomes),
        oldest_version=message.oldest_version,
    )


def _rollout_to_message(rollout: TrainingRollout) -> batch_service_pb2.TrainingRollout:
    return batch_service_pb2.TrainingRollout(
        group_number=rollout.group_number,
        index=rollout.index,
        prompt_tokens=codecs.pack_array(rollout.prompt_tokens, "i4"),
        completion_tokens=codecs.pack_array(rollout.completion_tokens, "i4"),
        logprobs=codecs.pack_array(rollout.logprobs, "f4"),
        reward=rollout.reward,
        advantage=rollout.advantage,
        temperature=rollout.temperature,
        age=rollout.age,
    )


def _rollout_from_message(message: batch_service_pb2.TrainingRollout) -> TrainingRollout:
    completion_tokens = codecs.unpack_integers(message.completion_tokens)
    logprobs = codecs.unpack_floats(message.logprobs)
    name = f"rollout {message.group_number}/{message.index}"
    require(
        len(completion_tokens) == len(logprobs),
        f"{name} has {len(completion_tokens)} completion tokens and {len(logprobs)} logprobs",
    )
    require(message.temperature > 0, f"{name} has temperature {message.temperature}")
    return TrainingRollout(
        group_number=message.group_number,
        index=message.index,
        prompt_tokens=codecs.unpack_integers(message.prompt_tokens),
        completion_tokens=completion_tokens,
        logprobs=logprobs,
        reward=message.reward,
        advantage=message.advantage,
        temperature=message.temperature,
        age=message.age,
    )


# Commits -----------------------------------------------------------------------------------------


def committed_step_to_message(step: CommittedStep) -> batch_service_pb2.CommittedStep:
    """Durable step as protobuf."""
    return batch_service_pb2.CommittedStep(
        step=step.step, outcomes=[codecs.outcome_to_message(outcome) for outcome in step.outcomes]
    )


def committed_step_from_message(message: batch_service_pb2.CommittedStep) -> CommittedStep:
    """Durable step from protobuf."""
    return CommittedStep(
        step=message.step, outcomes=tuple(codecs.outcome_from_message(outcome) for outcome in message.outcomes)
    )


def merge_committed_steps(parts: list[bytes]) -> CommittedStep:
    """One durable step from the encoded shards of all ranks; group numbers ascend."""
    steps = [committed_step_from_message(batch_service_pb2.CommittedStep.FromString(part)) for part in parts]
    outcomes = (outcome for step in steps for outcome in step.outcomes)
    return CommittedStep(step=steps[0].step, outcomes=tuple(sorted(outcomes, key=lambda outcome: outcome.group.number)))

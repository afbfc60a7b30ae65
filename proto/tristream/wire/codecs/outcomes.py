"""Codec of outcomes."""

from tristream.outcomes.v1 import outcome_pb2
from tristream.wire import events
from tristream.wire.codecs.base import Codec, enum_from_number, require, require_finite
from tristream.wire.codecs.samples import group_from_message, group_to_message


def outcome_to_message(outcome: events.Outcome) -> outcome_pb2.Outcome:
    """Outcome as protobuf."""
    reason = outcome.drop_reason
    return outcome_pb2.Outcome(
        group=group_to_message(outcome.group),
        fate=outcome_pb2.Fate.Value(f"FATE_{outcome.fate.name}"),
        step=outcome.step,
        drop_reason=outcome_pb2.DropReason.Value(f"DROP_REASON_{'UNSPECIFIED' if reason is None else reason.name}"),
        rollouts=[
            outcome_pb2.RolloutOutcome(
                index=rollout.index,
                valid=rollout.valid,
                reward=rollout.reward,
                advantage=rollout.advantage,
                age=rollout.age,
            )
            for rollout in outcome.rollouts
        ],
        oldest_version=outcome.oldest_version,
        has_zero_variance=outcome.has_zero_variance,
        created_ns=outcome.created_ns,
    )


def outcome_from_message(message: outcome_pb2.Outcome) -> events.Outcome:
    """Outcome from protobuf.

    Raises:
        MalformedEventError: it is not a valid outcome.
    """
    fate = enum_from_number(events.Fate, message.fate, "FATE", outcome_pb2.Fate.Name)
    drop_reason = None
    if fate is events.Fate.DROPPED:
        drop_reason = enum_from_number(
            events.DropReason, message.drop_reason, "DROP_REASON", outcome_pb2.DropReason.Name
        )
    require((message.drop_reason != 0) == (drop_reason is not None), f"an outcome that is {fate} has a drop reason")
    for rollout in message.rollouts:
        require_finite("reward or advantage of an outcome", rollout.reward, rollout.advantage)
    return events.Outcome(
        group=group_from_message(message.group),
        fate=fate,
        step=message.step,
        drop_reason=drop_reason,
        rollouts=tuple(
            events.RolloutOutcome(
                index=rollout.index,
                valid=rollout.valid,
                reward=rollout.reward,
                advantage=rollout.advantage,
                age=rollout.age,
            )
            for rollout in message.rollouts
        ),
        oldest_version=message.oldest_version,
        has_zero_variance=message.has_zero_variance,
        created_ns=message.created_ns,
    )


OUTCOME = Codec(outcome_to_message, lambda data: outcome_from_message(outcome_pb2.Outcome.FromString(data)))

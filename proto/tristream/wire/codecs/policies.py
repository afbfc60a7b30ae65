"""Codec of policy versions."""

from collections.abc import Iterable

from tristream.policies.v1 import policy_version_pb2
from tristream.wire import events
from tristream.wire.codecs.base import Codec, require


def weights_to_message(weights: events.Weights) -> policy_version_pb2.Weights:
    """Weights as protobuf."""
    return policy_version_pb2.Weights(version=weights.version, uri=weights.uri, sha256=weights.sha256)


def weights_from_message(message: policy_version_pb2.Weights) -> events.Weights:
    """Weights from protobuf."""
    require(bool(message.uri), "weights have no uri")
    return events.Weights(version=message.version, uri=message.uri, sha256=message.sha256)


def intervals_to_messages(intervals: tuple[events.Interval, ...]) -> list[policy_version_pb2.Interval]:
    """Intervals as protobuf."""
    return [policy_version_pb2.Interval(start=interval.start, end=interval.end) for interval in intervals]


def intervals_from_messages(messages: Iterable[policy_version_pb2.Interval]) -> tuple[events.Interval, ...]:
    """Intervals from protobuf."""
    return tuple(events.Interval(start=message.start, end=message.end) for message in messages)


def _policy_to_message(policy: events.PolicyVersion) -> policy_version_pb2.PolicyVersion:
    return policy_version_pb2.PolicyVersion(
        run=policy.run,
        weights=weights_to_message(policy.weights),
        total_steps=policy.total_steps,
        settled=intervals_to_messages(policy.settled),
        dropped=intervals_to_messages(policy.dropped),
        created_ns=policy.created_ns,
    )


def _policy_from_bytes(data: bytes) -> events.PolicyVersion:
    message = policy_version_pb2.PolicyVersion.FromString(data)
    return events.PolicyVersion(
        run=message.run,
        weights=weights_from_message(message.weights),
        total_steps=message.total_steps,
        settled=intervals_from_messages(message.settled),
        dropped=intervals_from_messages(message.dropped),
        created_ns=message.created_ns,
    )


POLICY = Codec(_policy_to_message, _policy_from_bytes)

"""Codec of policy versions."""

from tristream.policies.v1 import policy_version_pb2
from tristream.wire import events
from tristream.wire.codecs.base import Codec, require
from tristream.wire.codecs.ledgers import ledger_from_message, ledger_to_message


def weights_to_message(weights: events.Weights) -> policy_version_pb2.Weights:
    """Weights as protobuf."""
    return policy_version_pb2.Weights(version=weights.version, uri=weights.uri, sha256=weights.sha256)


def weights_from_message(message: policy_version_pb2.Weights) -> events.Weights:
    """Weights from protobuf."""
    require(bool(message.uri), "weights have no uri")
    return events.Weights(version=message.version, uri=message.uri, sha256=message.sha256)


def _policy_to_message(policy: events.PolicyVersion) -> policy_version_pb2.PolicyVersion:
    return policy_version_pb2.PolicyVersion(
        run=policy.run,
        weights=weights_to_message(policy.weights),
        total_steps=policy.total_steps,
        durable=ledger_to_message(policy.durable),
        created_ns=policy.created_ns,
    )


def _policy_from_bytes(data: bytes) -> events.PolicyVersion:
    message = policy_version_pb2.PolicyVersion.FromString(data)
    return events.PolicyVersion(
        run=message.run,
        weights=weights_from_message(message.weights),
        total_steps=message.total_steps,
        durable=ledger_from_message(message.durable),
        created_ns=message.created_ns,
    )


POLICY = Codec(_policy_to_message, _policy_from_bytes)

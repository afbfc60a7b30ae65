"""Codec of part statuses."""

from tristream.parts.v1 import part_status_pb2
from tristream.wire import events
from tristream.wire.codecs.base import Codec, enum_from_number, require


def _status_to_message(status: events.PartStatus) -> part_status_pb2.PartStatus:
    return part_status_pb2.PartStatus(
        run=status.run,
        part=part_status_pb2.Part.Value(f"PART_{status.part.name}"),
        instance=status.instance,
        state=part_status_pb2.PartState.Value(f"PART_STATE_{status.state.name}"),
        waiting_for=status.waiting_for,
        since_ns=status.since_ns,
        started_ns=status.started_ns,
        created_ns=status.created_ns,
        address=status.address,
        measures=status.measures,
        verifiers=[
            part_status_pb2.VerifierLoad(verifier=load.verifier, version=load.version, num_scored=load.num_scored)
            for load in status.verifiers
        ],
        epoch=status.epoch,
    )


def _status_from_bytes(data: bytes) -> events.PartStatus:
    message = part_status_pb2.PartStatus.FromString(data)
    require(bool(message.instance), "part status has no instance")
    return events.PartStatus(
        run=message.run,
        part=enum_from_number(events.Part, message.part, "PART", part_status_pb2.Part.Name),
        instance=message.instance,
        state=enum_from_number(events.PartState, message.state, "PART_STATE", part_status_pb2.PartState.Name),
        waiting_for=message.waiting_for,
        since_ns=message.since_ns,
        started_ns=message.started_ns,
        created_ns=message.created_ns,
        address=message.address,
        measures=dict(message.measures),
        verifiers=tuple(
            events.VerifierLoad(verifier=load.verifier, version=load.version, num_scored=load.num_scored)
            for load in message.verifiers
        ),
        epoch=message.epoch,
    )


PART_STATUS = Codec(_status_to_message, _status_from_bytes)

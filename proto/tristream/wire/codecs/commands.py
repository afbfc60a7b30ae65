"""Codec of commands."""

from collections.abc import Mapping

from tristream.commands.v1 import command_pb2
from tristream.wire import events
from tristream.wire.codecs.base import Codec, enum_from_number, require, require_finite

REQUIRED: Mapping[events.CommandKind, tuple[str, ...]] = {
    events.CommandKind.PAUSE_SOURCE: ("sources",),
    events.CommandKind.RESUME_SOURCE: ("sources",),
    events.CommandKind.EXTEND: ("total_steps",),
}
"""What a command of a kind must have; the other kinds need a verifier and its version."""


def _command_to_message(command: events.Command) -> command_pb2.Command:
    return command_pb2.Command(
        run=command.run,
        id=command.id,
        kind=command_pb2.CommandKind.Value(f"COMMAND_KIND_{command.kind.name}"),
        verifier=command.verifier,
        version=command.version,
        sources=command.sources,
        weights=command.weights,
        params_json=command.params_json,
        entry_point=command.entry_point,
        components=command.components,
        code_sha256=command.code_sha256,
        from_earliest=command.from_earliest,
        refusal=command.refusal,
        from_number=command.from_number,
        from_version=command.from_version,
        reason=command.reason,
        total_steps=command.total_steps,
        created_ns=command.created_ns,
    )


def _command_from_bytes(data: bytes) -> events.Command:
    message = command_pb2.Command.FromString(data)
    kind = enum_from_number(events.CommandKind, message.kind, "COMMAND_KIND", command_pb2.CommandKind.Name)
    for name in ("id", *REQUIRED.get(kind, ("verifier", "version"))):
        require(bool(getattr(message, name)), f"command {kind} has no {name}")
    weights = dict(message.weights)
    require_finite("a weight of a command", *weights.values())
    return events.Command(
        run=message.run,
        id=message.id,
        kind=kind,
        verifier=message.verifier,
        version=message.version,
        sources=tuple(message.sources),
        weights=weights,
        params_json=message.params_json,
        entry_point=message.entry_point,
        components=tuple(message.components),
        code_sha256=message.code_sha256,
        from_earliest=message.from_earliest,
        refusal=message.refusal,
        from_number=message.from_number,
        from_version=message.from_version,
        reason=message.reason,
        total_steps=message.total_steps,
        created_ns=message.created_ns,
    )


COMMAND = Codec(_command_to_message, _command_from_bytes)

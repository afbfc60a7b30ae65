"""Codec of commands."""

from tristream.commands.v1 import command_pb2
from tristream.wire import events
from tristream.wire.codecs.base import Codec, enum_from_number, require


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
        created_ns=command.created_ns,
    )


def _command_from_bytes(data: bytes) -> events.Command:
    message = command_pb2.Command.FromString(data)
    for name in ("id", "verifier", "version"):
        require(bool(getattr(message, name)), f"command has no {name}")
    return events.Command(
        run=message.run,
        id=message.id,
        kind=enum_from_number(events.CommandKind, message.kind, "COMMAND_KIND", command_pb2.CommandKind.Name),
        verifier=message.verifier,
        version=message.version,
        sources=tuple(message.sources),
        weights=dict(message.weights),
        params_json=message.params_json,
        entry_point=message.entry_point,
        created_ns=message.created_ns,
    )


COMMAND = Codec(_command_to_message, _command_from_bytes)

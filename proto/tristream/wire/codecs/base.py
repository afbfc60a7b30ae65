"""What every codec is: total on valid events, and an error with its reason on anything else."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Generic, TypeVar

from google.protobuf.message import DecodeError
from google.protobuf.message import Message as ProtobufMessage

EventT = TypeVar("EventT")
EnumT = TypeVar("EnumT", bound=StrEnum)


class MalformedEventError(ValueError):
    """A record that is not a valid event; the text says why."""


class NotProtobufError(MalformedEventError):
    """The bytes are not even a message of the topic."""


@dataclass(frozen=True, slots=True)
class Codec(Generic[EventT]):
    """How one kind of event becomes bytes and comes back."""

    to_message: Callable[[EventT], ProtobufMessage]
    from_bytes: Callable[[bytes], EventT]

    def encode(self, event: EventT) -> bytes:
        """Deterministic protobuf bytes of the event."""
        return self.to_message(event).SerializeToString(deterministic=True)

    def decode(self, data: bytes) -> EventT:
        """The event in the bytes.

        Raises:
            MalformedEventError: the bytes are not a valid event of this kind.
        """
        try:
            return self.from_bytes(data)
        except DecodeError as error:
            raise NotProtobufError(f"not protobuf of this topic: {error}") from None


def enum_from_number(kind: type[EnumT], number: int, prefix: str, name_of: Callable[[Any], str]) -> EnumT:
    """Our enum value of a protobuf number.

    Raises:
        MalformedEventError: the number is unset or unknown.
    """
    try:
        value: EnumT = kind[name_of(number).removeprefix(f"{prefix}_")]
    except (KeyError, ValueError):
        raise MalformedEventError(f"{prefix.lower()} has no value {number}") from None
    return value


def require(condition: bool, reason: str) -> None:
    """Raise MalformedEventError with the reason unless the condition holds."""
    if not condition:
        raise MalformedEventError(reason)

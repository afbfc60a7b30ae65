"""What every codec is: total on valid events, and an error with its reason on anything else."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from enum import StrEnum
from functools import cache
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
        """Deterministic protobuf bytes of the event; what is no Unicode in its texts (lone surrogates) is replaced."""
        try:
            message = self.to_message(event)
        except UnicodeEncodeError:
            message = self.to_message(_without_surrogates(event))
        return message.SerializeToString(deterministic=True)

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
        value: EnumT = _find_member(kind, number, prefix, name_of)
    except (KeyError, ValueError):
        raise MalformedEventError(f"{prefix.lower()} has no value {number}") from None
    return value


def require(condition: bool, reason: str) -> None:
    """Raise MalformedEventError with the reason unless the condition holds."""
    if not condition:
        raise MalformedEventError(reason)


def require_finite(name: str, *values: float) -> None:
    """Raise MalformedEventError if one of the values is NaN or infinite."""
    if not all(map(math.isfinite, values)):
        raise MalformedEventError(f"{name} is not finite")


def to_utf8(text: str) -> bytes:
    """A text as UTF-8; what is no Unicode in it (lone surrogates) is replaced."""
    try:
        return text.encode()
    except UnicodeEncodeError:
        return _to_unicode(text).encode()


def _to_unicode(text: str) -> str:
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _without_surrogates(value: Any) -> Any:  # noqa: ANN401 - events are made of many types
    """The event with all texts in it, at any depth, as Unicode."""
    if isinstance(value, str):
        return value if isinstance(value, StrEnum) else _to_unicode(value)
    if isinstance(value, tuple):
        return tuple(map(_without_surrogates, value))
    if isinstance(value, Mapping):
        return {_without_surrogates(key): _without_surrogates(item) for key, item in value.items()}
    if is_dataclass(value) and not isinstance(value, type):
        changes = {field.name: _without_surrogates(getattr(value, field.name)) for field in fields(value)}
        return replace(value, **changes)
    return value


@cache
def _find_member(kind: Any, number: int, prefix: str, name_of: Callable[[Any], str]) -> Any:  # noqa: ANN401
    return kind[name_of(number).removeprefix(f"{prefix}_")]

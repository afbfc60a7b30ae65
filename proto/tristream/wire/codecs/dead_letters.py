"""Codec of dead letters."""

from tristream.deadletter.v1 import dead_letter_pb2
from tristream.wire import events
from tristream.wire.codecs.base import Codec


def _dead_letter_to_message(letter: events.DeadLetter) -> dead_letter_pb2.DeadLetter:
    return dead_letter_pb2.DeadLetter(
        run=letter.run,
        topic=letter.topic,
        partition=letter.partition,
        offset=letter.offset,
        key=letter.key,
        value=letter.value,
        headers=letter.headers,
        error=letter.error,
        part=letter.part,
        created_ns=letter.created_ns,
    )


def _dead_letter_from_bytes(data: bytes) -> events.DeadLetter:
    message = dead_letter_pb2.DeadLetter.FromString(data)
    return events.DeadLetter(
        run=message.run,
        topic=message.topic,
        partition=message.partition,
        offset=message.offset,
        key=message.key,
        value=message.value,
        headers=dict(message.headers),
        error=message.error,
        part=message.part,
        created_ns=message.created_ns,
    )


DEAD_LETTER = Codec(_dead_letter_to_message, _dead_letter_from_bytes)

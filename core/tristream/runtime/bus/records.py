"""What every bus does with a record: decode it, or turn it into a dead letter."""

import time
from typing import Any

from tristream.runtime.bus.protocol import Bus, Record
from tristream.wire.codecs import MalformedEventError
from tristream.wire.events import DeadLetter
from tristream.wire.topics import Topic


def decode_record(bus: Bus, topic: Topic[Any], record: Record[bytes]) -> Record[Any] | None:
    """Decode a record, or send it to the dead letter topic and return None."""
    try:
        event = topic.codec.decode(record.event)
    except MalformedEventError as error:
        bus.dead_letter(record, str(error))
        return None
    return Record(
        topic=record.topic,
        partition=record.partition,
        offset=record.offset,
        key=record.key,
        event=event,
        headers=record.headers,
    )


def make_dead_letter(run: str, part: str, record: Record[bytes], error: str) -> DeadLetter:
    """The dead letter of a record."""
    return DeadLetter(
        run=run,
        topic=record.topic,
        partition=record.partition,
        offset=record.offset,
        key=record.key.encode(),
        value=record.event,
        headers=record.headers,
        error=error,
        part=part,
        created_ns=time.time_ns(),
    )

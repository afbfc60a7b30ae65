"""What every bus does with a record: decode it, or turn it into a dead letter."""

import time
from collections.abc import Mapping
from typing import Any

from tristream.runtime.bus.protocol import Bus, EventTooLargeError, Record
from tristream.runtime.errors import UserError
from tristream.wire.codecs.base import MalformedEventError, NotProtobufError, to_utf8
from tristream.wire.events import DeadLetter
from tristream.wire.topics import (
    BARRIER_HEADER,
    CONTRACT_HEADER,
    CONTRACT_VERSION,
    FENCE_HEADER,
    MAX_RECORD_BYTES,
    Topic,
)

MAX_DEAD_LETTER_BYTES = 2**20
"""Longer values are cut in their dead letter."""
MAX_DEAD_LETTER_LABEL_BYTES = 2**16
"""Longer keys are cut in a dead letter, and headers left out that take more than this together."""
MAX_REASON_CHARACTERS = 2**13
OVERHEAD_BYTES = 512
"""What a record has beyond its key, value and headers, and what each of these takes to tell its length."""


def foreign_contract(headers: Mapping[str, bytes]) -> str | None:
    """The contract that a record was written under, if it is another one than ours."""
    contract = headers.get(CONTRACT_HEADER, b"1").decode(errors="replace")
    return None if contract == str(CONTRACT_VERSION) else contract


def explain_contract(contract: str) -> str:
    """Why a record of another contract is not read."""
    return f"written under contract {contract}, and this version of tristream reads contract {CONTRACT_VERSION}"


class LogStart:
    """Finds, of each partition, the record with which its log begins, among those that a reader sees in order."""

    def __init__(self) -> None:
        self._may_come: dict[tuple[str, int], bool] = {}

    def is_first(self, topic: str, partition: int, offset: int, *, is_barrier: bool) -> bool:
        """Whether this is the first record of its partition, barriers left aside; call it once a record."""
        may_be_first = self._may_come.get((topic, partition), offset == 0)
        self._may_come[topic, partition] = may_be_first and is_barrier
        return may_be_first and not is_barrier


def check_size(topic: Topic[Any], key: bytes, value: bytes, headers: Mapping[str, bytes]) -> None:
    """Refuse what does not fit into a record.

    Raises:
        EventTooLargeError: it does not.
    """
    label_bytes = sum(len(name) + len(header) + 10 for name, header in headers.items())
    num_bytes = len(key) + len(value) + label_bytes + OVERHEAD_BYTES
    if num_bytes > MAX_RECORD_BYTES:
        raise EventTooLargeError(f"an event of {topic.name} takes {num_bytes} bytes, {MAX_RECORD_BYTES} fit")


def is_mark(record: Record[bytes]) -> bool:
    """Whether a record carries no event: a barrier or a fence."""
    return BARRIER_HEADER in record.headers or FENCE_HEADER in record.headers


def decode_record(bus: Bus, topic: Topic[Any], record: Record[bytes], *, is_first: bool) -> Record[Any] | None:
    """Decode a record, or send it to the dead letter topic and return None.

    Args:
        bus: where dead letters go.
        topic: what the record should be.
        record: the record as it is.
        is_first: whether the log of its partition begins with it.

    Raises:
        UserError: the log was begun under another contract: the run belongs to another version of tristream.
    """
    contract = foreign_contract(record.headers)
    try:
        if contract is not None:
            if is_first and _is_of_run(topic, record, bus.run):
                raise UserError(
                    f"its log was {explain_contract(contract)}",
                    where=f"run {bus.run}, topic {topic.name}",
                    remedy="use the version that wrote it, or give another run.id",
                )
            raise MalformedEventError(explain_contract(contract))
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
        timestamp_ns=record.timestamp_ns,
    )


def make_dead_letter(run: str, part: str, record: Record[bytes], error: str) -> DeadLetter:
    """The dead letter of a record; what is too long for one is cut, and the error says so."""
    error = error[:MAX_REASON_CHARACTERS]
    key, value, headers = to_utf8(record.key), record.event, dict(record.headers)
    if len(value) > MAX_DEAD_LETTER_BYTES:
        error = f"{error} (cut from {len(value)} bytes)"
        value = value[:MAX_DEAD_LETTER_BYTES]
    if len(key) > MAX_DEAD_LETTER_LABEL_BYTES:
        error = f"{error} (its key is cut from {len(key)} bytes)"
        key = key[:MAX_DEAD_LETTER_LABEL_BYTES]
    header_bytes = sum(len(to_utf8(name)) + len(header) for name, header in headers.items())
    if header_bytes > MAX_DEAD_LETTER_LABEL_BYTES:
        error = f"{error} (without its headers of {header_bytes} bytes)"
        headers = {}
    return DeadLetter(
        run=run,
        topic=record.topic,
        partition=record.partition,
        offset=record.offset,
        key=key,
        value=value,
        headers=headers,
        error=error,
        part=part,
        created_ns=time.time_ns(),
    )


def _is_of_run(topic: Topic[Any], record: Record[bytes], run: str) -> bool:
    """Whether a record of another contract is one of this run, and not bytes that somebody else put there."""
    if record.key != run and not record.key.startswith(f"{run}/"):
        return False
    try:
        topic.codec.decode(record.event)
    except NotProtobufError:
        return False
    except MalformedEventError:
        return True
    return True

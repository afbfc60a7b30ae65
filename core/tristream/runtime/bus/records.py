"""What every bus does with a record: decode it, or turn it into a dead letter."""

import time
from collections.abc import Mapping
from typing import Any

from tristream.runtime.bus.protocol import Bus, Record
from tristream.runtime.errors import UserError
from tristream.wire.codecs.base import MalformedEventError, NotProtobufError
from tristream.wire.events import DeadLetter
from tristream.wire.topics import CONTRACT_HEADER, CONTRACT_VERSION, Topic

MAX_DEAD_LETTER_BYTES = 2**20
"""Longer values are cut in their dead letter, so that it fits into a record whatever its headers are."""


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
    )


def make_dead_letter(run: str, part: str, record: Record[bytes], error: str) -> DeadLetter:
    """The dead letter of a record; a value that is too long for one is cut, and the error says so."""
    value = record.event
    if len(value) > MAX_DEAD_LETTER_BYTES:
        error = f"{error} (cut from {len(value)} bytes)"
        value = value[:MAX_DEAD_LETTER_BYTES]
    return DeadLetter(
        run=run,
        topic=record.topic,
        partition=record.partition,
        offset=record.offset,
        key=record.key.encode(),
        value=value,
        headers=record.headers,
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

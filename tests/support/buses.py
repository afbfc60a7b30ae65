"""What tests do with a bus, whatever it is made of: publish as others would, and read what is there."""

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from aiokafka import AIOKafkaProducer

from faulty_bus import FaultyBus
from tristream.runtime.bus.kafka import KafkaBus
from tristream.runtime.bus.memory import MemoryBus
from tristream.runtime.bus.protocol import Bus, Reader
from tristream.wire.events import DropReason, Fate, Group, Outcome, Split
from tristream.wire.topics import DEAD_LETTERS, OUTCOMES, Topic


def make_outcome(number: int, run: str = "test", sample_id: str = "") -> Outcome:
    """An outcome that is told from others by its number."""
    group = Group(run=run, split=Split.TRAIN, number=number, source="words", sample_id=sample_id, size=8)
    return Outcome(group=group, fate=Fate.DROPPED, drop_reason=DropReason.ZERO_VARIANCE, created_ns=number)


def as_part(bus: Bus, part: str) -> Bus:
    """Another part on the same log, with epochs of its own."""
    if isinstance(bus, FaultyBus):
        return FaultyBus(as_part(bus.inner, part))
    if isinstance(bus, MemoryBus):
        return bus.as_part(part)
    assert isinstance(bus, KafkaBus)
    return KafkaBus(bus.run, bus.settings, part)


def publish_raw(bus: Bus, key: str, value: bytes, headers: Mapping[str, bytes], topic: Topic[Any] = OUTCOMES) -> None:
    """An event, an outcome if not said otherwise, as a foreign writer would publish it."""
    bus = bus.inner if isinstance(bus, FaultyBus) else bus
    if isinstance(bus, MemoryBus):
        bus.publish_raw(topic, key, value, headers)
        return
    assert isinstance(bus, KafkaBus)
    bus.send(topic, key.encode(), value, list(headers.items()))
    bus.flush()


def publish_odd(
    bus: KafkaBus, key: bytes | None, value: bytes | None, headers: Sequence[tuple[str, bytes | None]]
) -> None:
    """An outcome as only other clients can publish it: without a value, with null headers, with a header twice."""

    async def send() -> None:
        producer = AIOKafkaProducer(bootstrap_servers=bus.settings.bootstrap_servers)
        await producer.start()
        await producer.send_and_wait(bus.full_name(OUTCOMES), value, key, partition=0, headers=list(headers))
        await producer.stop()

    asyncio.run(send())


def read_numbers(reader: Reader) -> list[int]:
    """Group numbers of the outcomes up to the end."""
    try:
        return [record.event.group.number for record in reader.read_to_end()]
    finally:
        reader.close()


def read_letters(bus: Bus) -> list[Any]:
    """The dead letters so far."""
    bus.flush()
    reader = bus.reader([DEAD_LETTERS])
    letters = [record.event for record in reader.read_to_end()]
    reader.close()
    return letters


def read_errors(bus: Bus) -> list[str]:
    """The reasons of the dead letters so far."""
    return [letter.error for letter in read_letters(bus)]


def poll_until(reader: Reader, is_enough: Callable[[list[int]], bool], seconds: float = 60.0) -> list[int]:
    """Group numbers of the outcomes that are polled until they are enough."""
    found: list[int] = []
    deadline = time.monotonic() + seconds
    while not is_enough(found):
        assert time.monotonic() < deadline, found
        found += [record.event.group.number for record in reader.poll(0.1)]
    return found

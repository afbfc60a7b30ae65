"""The faulty bus does what it is told, and nothing that a broker may not do."""

from collections import defaultdict
from collections.abc import Callable
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from faulty_bus import Call, FaultyBus
from tristream.runtime.bus.memory import MemoryBus
from tristream.runtime.bus.protocol import BusError, Reader
from tristream.wire.events import DropReason, Fate, Group, Outcome, Split
from tristream.wire.topics import OUTCOMES

NUM_RECORDS = 40


def make_outcome(number: int, step: int = 0) -> Outcome:
    group = Group(run="test", split=Split.TRAIN, number=number, source="words", sample_id="0", size=8)
    return Outcome(group=group, fate=Fate.DROPPED, drop_reason=DropReason.STALE, step=step, created_ns=0)


def make_bus(seed: int = 0) -> FaultyBus:
    bus = FaultyBus(MemoryBus("test"), seed)
    for number in range(NUM_RECORDS):
        bus.publish(OUTCOMES, make_outcome(number))
    return bus


def poll_all(reader: Reader) -> list[tuple[int, int]]:
    """Partition and offset of what is polled until all records came at least once."""
    seen: list[tuple[int, int]] = []
    while len(set(seen)) < NUM_RECORDS:
        seen += [(record.partition, record.offset) for record in reader.poll(0.0, max_records=10)]
    return seen


def first_copies(seen: list[tuple[int, int]]) -> dict[int, list[int]]:
    offsets: dict[int, list[int]] = defaultdict(list)
    for partition, offset in dict.fromkeys(seen):
        offsets[partition].append(offset)
    return offsets


def test_held_records_come_in_their_order_once_they_are_released() -> None:
    bus = FaultyBus(MemoryBus("test"))
    reader = bus.reader([OUTCOMES])
    bus.delay_publishes()
    futures = [bus.publish(OUTCOMES, make_outcome(1, step)) for step in range(3)]
    assert not list(reader.read_to_end())
    assert not any(future.done() for future in futures)
    with pytest.raises(BusError, match="3 records are held back"):
        bus.flush(0.05)
    bus.release_publishes()
    bus.publish(OUTCOMES, make_outcome(1, 3)).result(1)
    assert all(future.done() for future in futures)
    bus.flush(0.05)
    assert [record.event.step for record in reader.read_to_end()] == [0, 1, 2, 3]


@pytest.mark.parametrize("call", ["publish", "flush", "commit"])
def test_a_call_is_refused_as_often_as_commanded_and_does_nothing_then(call: Call) -> None:
    bus = FaultyBus(MemoryBus("test"))
    reader = bus.reader([OUTCOMES], group="workers")
    calls: dict[Call, Callable[[], object]] = {
        "publish": lambda: bus.publish(OUTCOMES, make_outcome(1)),
        "flush": bus.flush,
        "commit": reader.commit,
    }
    bus.refuse(call, times=2)
    for _ in range(2):
        with pytest.raises(BusError, match=f"{call} refused"):
            calls[call]()
    assert not list(reader.read_to_end())
    calls[call]()
    assert len(list(reader.read_to_end())) == (1 if call == "publish" else 0)


@settings(max_examples=50)
@given(st.integers(0, 2**32))
def test_each_partition_keeps_its_order(seed: int) -> None:
    bus = make_bus(seed)
    expected = first_copies(poll_all(bus.reader([OUTCOMES])))
    bus.reorders = True
    seen = poll_all(bus.reader([OUTCOMES]))
    assert len(seen) == NUM_RECORDS
    assert first_copies(seen) == expected


def test_partitions_are_mixed() -> None:
    num_mixed = 0
    for seed in range(20):
        bus = make_bus(seed)
        bus.reorders = True
        partitions = [partition for partition, _ in poll_all(bus.reader([OUTCOMES]))]
        num_mixed += sum(one != other for one, other in pairwise(partitions)) >= len(set(partitions))
    assert num_mixed > 15


@settings(max_examples=50)
@given(st.integers(0, 2**32), st.booleans())
def test_records_come_again_after_their_first_copies_came_in_order(seed: int, reorders: bool) -> None:
    bus = make_bus(seed)
    expected = first_copies(poll_all(bus.reader([OUTCOMES])))
    bus.repeat_probability, bus.reorders = 1.0, reorders
    reader = bus.reader([OUTCOMES])
    seen = poll_all(reader)
    # Now every partition has been read to its end, so that the next poll has nothing but repeats to give.
    repeats = {(record.partition, record.offset) for record in reader.poll(0.0, max_records=10)}
    assert first_copies(seen) == expected
    assert repeats
    assert repeats <= set(seen)


@settings(max_examples=50)
@given(st.integers(0, 2**32), st.integers(1, 12))
def test_a_commit_loses_nothing_that_was_kept_back(seed: int, num_polls: int) -> None:
    bus = make_bus(seed)
    bus.reorders = True
    first = bus.reader([OUTCOMES], group="workers")
    handled = set()
    for _ in range(num_polls):
        handled |= {record.event.group.number for record in first.poll(0.0, max_records=5)}
        first.commit()
    first.close()
    rest = list(bus.reader([OUTCOMES], group="workers").read_to_end())
    assert handled | {record.event.group.number for record in rest} == set(range(NUM_RECORDS))


def test_nothing_kept_back_is_given_in_a_pause() -> None:
    bus = make_bus()
    bus.reorders = True
    reader = bus.reader([OUTCOMES])
    num_given = len(reader.poll(0.0, max_records=10))
    reader.pause()
    assert not reader.poll(0.0)
    reader.resume()
    assert num_given + len(list(reader.read_to_end())) == NUM_RECORDS

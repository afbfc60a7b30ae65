"""The archive keeps every record as it was, once, whatever is torn, and is read like a topic."""

import random
import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tristream.runtime.archive.blocks import find_last_block, pack_record, read_blocks, unpack_records
from tristream.runtime.archive.reader import ArchiveBus
from tristream.runtime.archive.writer import BLOCK_BYTES, SUFFIX, ArchiveWriter, find_logs
from tristream.runtime.bus.memory import MemoryBus
from tristream.runtime.bus.protocol import BusError, Record
from tristream.wire.events import DropReason, Fate, Group, Outcome, PartState, PartStatus, Split
from tristream.wire.events.parts import Part
from tristream.wire.topics import (
    ALL_TOPICS,
    BARRIER_HEADER,
    CONTRACT_HEADER,
    CONTRACT_VERSION,
    EPOCH_HEADER,
    FENCE_HEADER,
    OUTCOMES,
    PARTS,
    POLICY,
    REWARDS,
)

KEYS = st.text(max_size=20)
RECORDS = st.builds(
    Record,
    topic=st.just(OUTCOMES.name),
    partition=st.just(0),
    offset=st.integers(0, 2**62),
    key=KEYS,
    event=st.binary(max_size=200),
    headers=st.dictionaries(KEYS, st.binary(max_size=40), max_size=4),
    timestamp_ns=st.integers(-1, 2**62),
)


def make_records(
    num_records: int, *, topic: str = OUTCOMES.name, partition: int = 0, first: int = 0, size: int = 50
) -> list[Record[bytes]]:
    generator = random.Random(first)
    return [
        Record(
            topic=topic,
            partition=partition,
            offset=offset,
            key=f"run/{offset}",
            event=generator.randbytes(size),
            headers={"source": b"words"},
            timestamp_ns=1000 * offset,
        )
        for offset in range(first, first + num_records)
    ]


def keep(folder: Path, records: list[Record[bytes]], *, log_id: str = "log", num_syncs: int = 3) -> None:
    """Archive records in a few turns, by a writer that is opened for it."""
    writer = ArchiveWriter(folder, log_id)
    for number, record in enumerate(records):
        writer.append(record)
        if number % max(1, len(records) // num_syncs) == 0:
            writer.sync()
    writer.sync()
    writer.close()


def kept(folder: Path) -> list[Record[bytes]]:
    """The records of all files, file after file."""
    found: list[Record[bytes]] = []
    for path in sorted(folder.rglob(f"*{SUFFIX}")):
        topic, _, partition = path.name.removesuffix(SUFFIX).rpartition("-")
        for block in read_blocks(path):
            found += unpack_records(block.payload, topic, int(partition))
    return found


def the_file(folder: Path) -> Path:
    (path,) = folder.rglob(f"*{SUFFIX}")
    return path


@given(st.lists(RECORDS, max_size=5))
def test_packed_records_come_back_as_they_were(records: list[Record[bytes]]) -> None:
    payload = b"".join(map(pack_record, records))
    assert list(unpack_records(payload, OUTCOMES.name, 0)) == records


def test_records_no_writer_of_ours_makes_are_kept_as_they_are(tmp_path: Path) -> None:
    strange = [
        Record(topic="outcomes", partition=0, offset=0, key="", event=b"", headers={}, timestamp_ns=-1),
        Record(topic="outcomes", partition=0, offset=1, key="\ud800", event=b"\xff" * 8_388_458, headers={"": b""}),
        Record(topic="outcomes", partition=0, offset=2, key="k" * 70_000, event=b"x", headers={"h" * 70_000: b"y"}),
        Record(
            topic="outcomes", partition=0, offset=3, key="many", event=b"x", headers={str(n): b"" for n in range(99)}
        ),
        Record(topic="outcomes", partition=0, offset=9, key="barrier", event=b"", headers={BARRIER_HEADER: b"1"}),
        Record(topic="outcomes", partition=0, offset=10, key="fence", event=b"", headers={FENCE_HEADER: b"4"}),
    ]
    keep(tmp_path, strange)
    assert kept(tmp_path) == strange


@pytest.mark.parametrize("size", [20, 5000])
def test_what_was_read_again_is_kept_once(size: int, tmp_path: Path) -> None:
    records = make_records(300, size=size)
    keep(tmp_path, records[:200])
    keep(tmp_path, records[150:] + records[:20])
    assert kept(tmp_path) == records


def test_blocks_stay_small_and_what_compresses_is_compressed(tmp_path: Path) -> None:
    keep(tmp_path, make_records(100, size=50_000), num_syncs=1)
    blocks = list(read_blocks(the_file(tmp_path)))
    assert len(blocks) > 3
    assert max(len(block.payload) for block in blocks) < BLOCK_BYTES + 51_000
    size = the_file(tmp_path).stat().st_size
    repeated = [
        Record(topic="rewards", partition=0, offset=n, key="run/1", event=b"the same " * 5000, headers={})
        for n in range(100)
    ]
    keep(tmp_path, repeated)
    assert (next(tmp_path.rglob("rewards-0*"))).stat().st_size < size / 50


def test_a_torn_tail_is_not_read_and_is_cut_off_by_the_next_writer(tmp_path: Path) -> None:
    records = make_records(60)
    keep(tmp_path / "whole", records)
    whole = the_file(tmp_path / "whole").read_bytes()
    last = find_last_block(the_file(tmp_path / "whole"))
    assert last is not None
    for size in [*range(last.start, last.end, 40), *range(last.end - 6, last.end)]:
        folder = tmp_path / str(size)
        keep(folder, records[:1])
        the_file(folder).write_bytes(whole[:size])
        assert kept(folder) == records[: last.first_offset]
        keep(folder, records)
        assert kept(folder) == records
        assert the_file(folder).stat().st_size <= len(whole) + 100


def test_a_block_that_was_damaged_later_costs_only_its_own_records(tmp_path: Path) -> None:
    records = make_records(90)
    keep(tmp_path, records)
    first, damaged, *_ = read_blocks(the_file(tmp_path))
    data = bytearray(the_file(tmp_path).read_bytes())
    data[damaged.start + 60] ^= 1
    the_file(tmp_path).write_bytes(data)
    left = [record for record in records if not damaged.first_offset <= record.offset <= damaged.last_offset]
    assert kept(tmp_path) == left
    assert first.last_offset < damaged.first_offset
    keep(tmp_path, make_records(10, first=90))
    assert [record.offset for record in kept(tmp_path)] == [record.offset for record in left] + list(range(90, 100))


def test_nothing_is_kept_before_it_is_synced_and_statuses_never_are(tmp_path: Path) -> None:
    writer = ArchiveWriter(tmp_path, "log")
    for record in make_records(3) + make_records(3, topic=PARTS.name):
        writer.append(record)
    writer.close()
    assert kept(tmp_path) == []
    writer = ArchiveWriter(tmp_path, "log")
    for record in make_records(3) + make_records(3, topic=PARTS.name):
        writer.append(record)
    writer.sync()
    writer.close()
    assert kept(tmp_path) == make_records(3)


@contextmanager
def files_of_at_most(num_bytes: int) -> Iterator[None]:
    """A disk on which no file becomes larger."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


def test_a_full_disk_loses_nothing_and_may_be_tried_again(tmp_path: Path) -> None:
    records = make_records(40, size=1000) + make_records(40, topic=REWARDS.name, size=1000)
    writer = ArchiveWriter(tmp_path, "log")
    for record in records[:5]:
        writer.append(record)
    writer.sync()
    for record in records[5:]:
        writer.append(record)
    with files_of_at_most(20_000):
        for _ in range(2):
            with pytest.raises(OSError, match="large"):
                writer.sync()
        assert [record for record in kept(tmp_path) if record.topic == OUTCOMES.name] == records[:5]
    writer.sync()
    writer.close()
    assert kept(tmp_path) == records


def test_logs_are_read_in_the_order_in_which_they_were_begun(tmp_path: Path) -> None:
    for log_id, first in (("b", 0), ("a", 10), ("c", 20)):
        keep(tmp_path, make_records(5, first=first, topic=POLICY.name), log_id=log_id)
    keep(tmp_path, make_records(5, first=5, topic=POLICY.name), log_id="b")
    assert list(find_logs(tmp_path)) == ["b", "a", "c"]
    assert ArchiveBus(tmp_path, "run").log_id() == "c"
    assert len(list(tmp_path.iterdir())) == 3


def test_the_archive_of_a_bus_is_read_as_the_bus_is(tmp_path: Path) -> None:
    bus = MemoryBus("run", num_partitions=2)
    zombie = bus.as_part("zombie")
    zombie.take_over([OUTCOMES], 1)
    for number in range(30):
        zombie.publish(OUTCOMES, make_outcome(number))
    bus.take_over([OUTCOMES], 2)
    for number in range(20, 50):
        bus.publish(OUTCOMES, make_outcome(number))
        zombie.publish(OUTCOMES, make_outcome(number + 100))
    headers = {CONTRACT_HEADER: str(CONTRACT_VERSION).encode(), EPOCH_HEADER: b"2"}
    bus.publish_raw(OUTCOMES, "broken", b"\xff\xff", headers)
    shown: list[Record[bytes]] = []
    expected = list(bus.reader([OUTCOMES], tap=shown.append).read_to_end())
    keep(tmp_path, shown)

    refused: list[str] = []
    archive = ArchiveBus(tmp_path, "run", give_up=lambda _record, why: refused.append(why))
    again: list[Record[bytes]] = []
    assert sorted(archive.reader([OUTCOMES], tap=again.append).read_to_end(), key=place) == sorted(expected, key=place)
    assert sorted(again, key=place) == sorted(shown, key=place)
    assert sum(why.startswith("void") for why in refused) == 30
    assert len(refused) == 31


def place(record: Record[Any]) -> tuple[str, int, int]:
    return record.topic, record.partition, record.offset


def test_a_reader_goes_on_from_offsets_and_says_where_it_is(tmp_path: Path) -> None:
    bus = MemoryBus("run", num_partitions=1)
    for step in range(50):
        bus.publish(PARTS, make_status(step))
        bus.publish(OUTCOMES, make_outcome(step))
    shown: list[Record[bytes]] = []
    list(bus.reader(ALL_TOPICS, tap=shown.append).read_to_end())
    keep(tmp_path, shown, num_syncs=9)
    reader = ArchiveBus(tmp_path, "run").reader([OUTCOMES], offsets={(OUTCOMES.name, 0): 33})
    mark = reader.mark_end()
    assert [record.event.group.number for record in reader.poll(max_records=2)] == [33, 34]
    assert reader.positions() == {(OUTCOMES.name, 0): 35}
    assert not reader.has_passed(mark)
    reader.pause()
    assert not reader.poll()
    reader.resume()
    assert len(reader.poll()) == 15
    assert reader.has_passed(mark)
    assert not reader.poll()


def test_a_void_record_is_known_by_the_fence_before_the_offset(tmp_path: Path) -> None:
    bus = MemoryBus("run", num_partitions=1)
    zombie = bus.as_part("zombie")
    zombie.take_over([OUTCOMES], 1)
    bus.take_over([OUTCOMES], 2)
    zombie.publish(OUTCOMES, make_outcome(1))
    shown: list[Record[bytes]] = []
    list(bus.reader([OUTCOMES], tap=shown.append).read_to_end())
    keep(tmp_path, shown)
    (voided,) = [record.offset for record in shown if record.event]
    assert not list(ArchiveBus(tmp_path, "run").reader([OUTCOMES], offsets={("outcomes", 0): voided}).read_to_end())


def test_an_archive_is_not_written_through_its_bus(tmp_path: Path) -> None:
    keep(tmp_path, make_records(3))
    with pytest.raises(BusError, match="read only"):
        ArchiveBus(tmp_path, "run").publish(OUTCOMES, make_outcome(1))
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    list(ArchiveBus(tmp_path, "run").reader(ALL_TOPICS).read_to_end())
    assert before == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}


def make_outcome(number: int) -> Outcome:
    group = Group(run="run", split=Split.TRAIN, number=number, source="words", sample_id=str(number), size=4)
    return Outcome(group=group, fate=Fate.DROPPED, drop_reason=DropReason.STALE, created_ns=1)


def make_status(step: int) -> PartStatus:
    return PartStatus(
        run="run",
        part=Part.LEARNER,
        instance="host-1",
        state=PartState.READY,
        since_ns=step,
        started_ns=1,
        created_ns=step,
    )

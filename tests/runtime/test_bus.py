"""The contract of a bus, run in memory, on the embedded broker, and on Apache Kafka if KAFKA_HOME is set."""

import dataclasses
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from brokers import running_broker
from tristream.config.run_file import RunFile
from tristream.runtime.bus.kafka import KafkaBus
from tristream.runtime.bus.memory import MemoryBus
from tristream.runtime.bus.protocol import Bus
from tristream.wire.events import Fate, Group, Outcome, PolicyVersion, Split, Weights
from tristream.wire.topics import DEAD_LETTERS, OUTCOMES, POLICY


def make_outcome(number: int, run: str = "test") -> Outcome:
    group = Group(run=run, split=Split.TRAIN, number=number, source="words", sample_id=str(number), size=8)
    return Outcome(group=group, fate=Fate.DROPPED, reason="zero_variance", created_ns=number)


def make_settings(bootstrap_servers: str, tmp_path: Path) -> RunFile:
    return RunFile.model_validate(
        {
            "run": {"id": f"test-{uuid.uuid4().hex[:8]}", "steps": 1, "output": tmp_path},
            "model": {"path": "model"},
            "sources": [{"name": "words", "train": "train.parquet"}],
            "bus": {"bootstrap_servers": bootstrap_servers},
        }
    )


@pytest.fixture(scope="module", params=["memory", "embedded", "kafka"])
def bootstrap(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of a running broker; empty for memory."""
    if request.param == "memory":
        yield ""
        return
    with running_broker(request.param, tmp_path_factory.mktemp(request.param)) as address:
        yield address


@pytest.fixture
def bus(bootstrap: str, tmp_path: Path) -> Iterator[Bus]:
    if not bootstrap:
        yield MemoryBus("test")
        return
    kafka_bus = KafkaBus(make_settings(bootstrap, tmp_path), "test")
    kafka_bus.create_topics()
    kafka_bus.create_topics()
    yield kafka_bus
    kafka_bus.close()


def publish_raw(bus: Any, value: bytes) -> None:
    if isinstance(bus, MemoryBus):
        bus.publish_raw(OUTCOMES, "key", value, {"trace": b"1"})
    else:
        bus._send(bus.full_name(OUTCOMES), value, b"key", [("trace", b"1")])


class TestBusContract:
    def test_a_reader_sees_everything_published_before_and_after_it(self, bus: Bus) -> None:
        for number in range(50):
            bus.publish(OUTCOMES, make_outcome(number))
        bus.flush()
        reader = bus.reader([OUTCOMES])
        assert {record.event.group.number for record in reader.read_to_end()} == set(range(50))
        bus.publish(OUTCOMES, make_outcome(50)).result(10)
        seen: list[int] = []
        deadline = time.monotonic() + 10
        while not seen and time.monotonic() < deadline:
            seen = [record.event.group.number for record in reader.poll(0.5)]
        assert seen == [50]
        reader.close()

    def test_reading_to_the_end_of_nothing_returns_nothing_twice(self, bus: Bus) -> None:
        reader = bus.reader([OUTCOMES, POLICY])
        assert not reader.read_to_end()
        assert not reader.read_to_end()
        reader.close()

    def test_records_of_one_group_keep_their_order(self, bus: Bus) -> None:
        outcome = make_outcome(7)
        for step in range(20):
            bus.publish(OUTCOMES, dataclasses.replace(outcome, step=step))
        bus.flush()
        reader = bus.reader([OUTCOMES])
        assert [record.event.step for record in reader.read_to_end()] == list(range(20))
        reader.close()

    def test_a_member_of_a_group_that_polls_briefly_and_rarely_still_gets_its_records(self, bus: Bus) -> None:
        bus.publish(OUTCOMES, make_outcome(0)).result(10)
        reader = bus.reader([OUTCOMES], group="rare")
        deadline = time.monotonic() + 20
        seen: list[int] = []
        while not seen and time.monotonic() < deadline:
            time.sleep(0.5)
            seen = [record.event.group.number for record in reader.poll(0.1)]
        assert seen == [0]
        reader.close()

    def test_a_group_goes_on_where_it_committed(self, bus: Bus) -> None:
        for number in range(10):
            bus.publish(OUTCOMES, make_outcome(number))
        bus.flush()
        first = bus.reader([OUTCOMES], group="workers")
        assert len(first.read_to_end()) == 10
        first.commit()
        bus.publish(OUTCOMES, make_outcome(10))
        bus.flush()
        assert len(first.read_to_end()) == 1  # not committed
        first.close()
        second = bus.reader([OUTCOMES], group="workers")
        assert [record.event.group.number for record in second.read_to_end()] == [10]
        second.close()

    def test_offsets_say_where_to_start(self, bus: Bus) -> None:
        for number in range(30):
            bus.publish(OUTCOMES, make_outcome(number))
        bus.flush()
        reader = bus.reader([OUTCOMES])
        records = reader.read_to_end()
        reader.close()
        partition = records[0].partition
        offsets = sorted(record.offset for record in records if record.partition == partition)
        start = offsets[len(offsets) // 2]
        late = bus.reader([OUTCOMES], offsets={("outcomes", partition): start})
        again = sorted(record.offset for record in late.read_to_end() if record.partition == partition)
        assert again == [offset for offset in offsets if offset >= start]
        late.close()

    def test_a_malformed_record_goes_to_the_dead_letters_and_the_rest_goes_on(self, bus: Bus) -> None:
        publish_raw(bus, b"\xff\xff junk")
        bus.publish(OUTCOMES, make_outcome(1))
        bus.flush()
        reader = bus.reader([OUTCOMES])
        assert [record.event.group.number for record in reader.read_to_end()] == [1]
        reader.close()
        bus.flush()
        letters = bus.reader([DEAD_LETTERS])
        (letter,) = [record.event for record in letters.read_to_end()]
        assert letter.value == b"\xff\xff junk"
        assert letter.headers == {"trace": b"1"}
        assert "protobuf" in letter.error
        letters.close()

    def test_a_paused_reader_gets_nothing_until_it_resumes(self, bus: Bus) -> None:
        reader = bus.reader([OUTCOMES])
        assert not reader.read_to_end()
        reader.pause()
        bus.publish(OUTCOMES, make_outcome(1))
        bus.flush()
        assert not reader.poll(0.5)
        reader.resume()
        assert len(reader.read_to_end()) == 1
        reader.close()

    def test_a_compacted_topic_takes_versions_of_one_key(self, bus: Bus) -> None:
        for version in range(3):
            weights = Weights(version=version, uri="file:///w", sha256="0")
            policy = PolicyVersion(
                run=bus.run, weights=weights, total_steps=3, settled=(), dropped=(), created_ns=version
            )
            bus.publish(POLICY, policy)
        bus.flush()
        reader = bus.reader([POLICY])
        assert [record.event.weights.version for record in reader.read_to_end()][-1] == 2
        reader.close()

"""Where a log begins and ends, which log it is, and when its records came: for every bus."""

import time
from pathlib import Path

import pytest
from kafka.admin import KafkaAdminClient

from brokers import started_broker
from buses import as_part, make_outcome, read_numbers
from faulty_bus import FaultyBus
from tristream.config.bus import BusSection
from tristream.runtime.bus.kafka import KafkaBus
from tristream.runtime.bus.memory import MemoryBus, MemoryReader
from tristream.runtime.bus.protocol import Bus, Record
from tristream.runtime.errors import UserError
from tristream.wire.topics import ALL_TOPICS, OUTCOMES, POLICY, REWARDS


def test_a_mark_is_passed_once_all_that_came_before_it_is_polled(bus: Bus) -> None:
    reader = bus.reader([OUTCOMES])
    bus.publish(OUTCOMES, make_outcome(0)).result(10)
    mark = reader.mark_end()
    assert not reader.has_passed(mark)
    bus.publish(OUTCOMES, make_outcome(1)).result(10)
    deadline = time.monotonic() + 60
    polled: list[int] = []
    while not reader.has_passed(mark):
        assert time.monotonic() < deadline
        polled += [record.event.group.number for record in reader.poll(0.1, max_records=1)]
    assert 0 in polled
    assert reader.has_passed(mark)
    reader.close()


def test_marks_that_are_passed_are_forgotten() -> None:
    bus = MemoryBus("test")
    reader = bus.reader([OUTCOMES])
    assert isinstance(reader, MemoryReader)
    for _ in range(5):
        assert not list(reader.read_to_end())
        assert reader.has_passed(reader.mark_end())
    assert not reader._marks


def test_positions_are_where_a_later_reader_goes_on(bus: Bus) -> None:
    for number in range(20):
        bus.publish(OUTCOMES, make_outcome(number))
    bus.flush()
    reader = bus.reader([OUTCOMES, REWARDS])
    seen: list[int] = []
    while len(seen) < 7:
        seen += [record.event.group.number for record in reader.poll(0.2, max_records=7 - len(seen))]
    offsets = reader.positions()
    reader.close()
    assert {topic for topic, _ in offsets} == {"outcomes", "rewards"}
    rest = read_numbers(bus.reader([OUTCOMES, REWARDS], offsets=offsets))
    assert sorted(seen + rest) == list(range(20))


def test_a_log_that_ends_before_the_offset_is_read_from_its_start(bus: Bus) -> None:
    bus.publish(OUTCOMES, make_outcome(0)).result(10)
    offsets = {("outcomes", partition): 1000 for partition in range(4)}
    assert read_numbers(bus.reader([OUTCOMES], offsets=offsets)) == [0]


def test_the_tap_sees_every_record_as_it_is_and_when_it_came(bus: Bus) -> None:
    seen: list[Record[bytes]] = []
    part = as_part(bus, "part")
    part.take_over([OUTCOMES], 1)
    before_ns = time.time_ns()
    part.publish(OUTCOMES, make_outcome(0, bus.run)).result(10)
    reader = bus.reader([OUTCOMES], tap=seen.append)
    (record,) = reader.read_to_end()
    reader.close()
    (tapped,) = [raw for raw in seen if raw.event == OUTCOMES.codec.encode(make_outcome(0, bus.run))]
    assert tapped.headers == {"contract": b"2", "source": b"words", "epoch": b"1"}
    assert (tapped.key, tapped.topic, tapped.offset) == (f"{bus.run}/0", "outcomes", record.offset)
    assert tapped.timestamp_ns == record.timestamp_ns
    assert abs(record.timestamp_ns - before_ns) < 10e9
    assert sum("tristream-fence" in raw.headers for raw in seen) == 4
    part.close()


def test_a_log_keeps_its_identity_and_another_run_has_another_one(bus: Bus) -> None:
    part = as_part(bus, "part")
    assert bus.log_id() == bus.log_id() == part.log_id() != ""
    part.close()
    inner = bus.inner if isinstance(bus, FaultyBus) else bus
    if isinstance(inner, KafkaBus):
        other: Bus = KafkaBus(f"{bus.run}-2", inner.settings, "test")
        other.create_topics()
    else:
        other = MemoryBus("test")
    assert other.log_id() != bus.log_id()
    other.close()


def connect(address: str, **settings: object) -> KafkaBus:
    return KafkaBus("test", BusSection(bootstrap_servers=address, **settings), "test")  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["embedded", pytest.param("kafka", marks=pytest.mark.slow)])
def test_the_identity_of_a_log_outlives_a_durable_broker_and_no_other_and_no_topic_that_is_made_anew(
    kind: str, tmp_path: Path
) -> None:
    with started_broker(kind, tmp_path) as broker:
        bus = connect(broker.bootstrap_servers)
        bus.create_topics()
        first = bus.log_id()
        bus.close()
        broker.kill()
        broker.start()
        bus = connect(broker.bootstrap_servers)
        bus.create_topics()
        second = bus.log_id()
        assert (second == first) == broker.durable
        admin = KafkaAdminClient(bootstrap_servers=broker.bootstrap_servers)
        admin.delete_topics([bus.full_name(OUTCOMES)])
        deadline = time.monotonic() + 60
        while bus.full_name(OUTCOMES) in admin.list_topics():
            assert time.monotonic() < deadline
            time.sleep(0.1)
        bus.create_topics()
        assert bus.log_id() != second
        admin.close()
        bus.close()


@pytest.mark.slow
def test_a_topic_of_apache_kafka_keeps_everything_unless_told_otherwise_and_a_gap_is_named(tmp_path: Path) -> None:
    with started_broker("kafka", tmp_path) as broker:
        bus = connect(broker.bootstrap_servers)
        bus.create_topics()
        admin = KafkaAdminClient(bootstrap_servers=broker.bootstrap_servers)
        kept = describe(admin, bus.full_name(OUTCOMES))
        assert [kept[key] for key in ("retention.ms", "retention.bytes", "min.insync.replicas")] == ["-1", "-1", "1"]
        assert kept["message.timestamp.type"] == "LogAppendTime"
        assert describe(admin, bus.full_name(POLICY))["cleanup.policy"] == "compact"
        brief = KafkaBus("brief", BusSection(bootstrap_servers=broker.bootstrap_servers, retention_hours=2), "test")
        brief.create_topics()
        by_name = {topic.name: describe(admin, brief.full_name(topic)) for topic in ALL_TOPICS}
        assert by_name["outcomes"]["retention.ms"] == "7200000"
        assert by_name["commands"]["retention.ms"] == "-1"
        brief.close()

        for number in range(40):
            bus.publish(OUTCOMES, make_outcome(number))
        bus.flush()
        partition = next(iter(bus.partitions_of(OUTCOMES)))
        admin.delete_records({place(bus, partition): 3})
        with pytest.raises(UserError, match="its log begins at offset 3, and offset 1 is needed") as caught:
            bus.reader([OUTCOMES], offsets={("outcomes", partition): 1})
        assert f"topic {bus.full_name(OUTCOMES)}, partition {partition}" in str(caught.value)
        reader = bus.reader([OUTCOMES], offsets={("outcomes", partition): 3})
        assert len(list(reader.read_to_end())) == 37
        reader.close()
        admin.close()
        bus.close()


def describe(admin: KafkaAdminClient, name: str) -> dict[str, str]:
    """The settings of a topic."""
    from kafka.admin import ConfigResource, ConfigResourceType

    (found,) = admin.describe_configs([ConfigResource(ConfigResourceType.TOPIC, name)]).values()
    return {key: value["value"] for key, value in found[name].items()}


def place(bus: KafkaBus, partition: int) -> object:
    from kafka.structs import TopicPartition

    return TopicPartition(bus.full_name(OUTCOMES), partition)


@pytest.mark.parametrize("kind", ["embedded", pytest.param("kafka", marks=pytest.mark.slow)])
def test_topics_that_must_be_there_and_are_not_are_named(kind: str, tmp_path: Path) -> None:
    with started_broker(kind, tmp_path) as broker:
        bus = connect(broker.bootstrap_servers, create_topics=False)
        with pytest.raises(UserError, match=r"the broker has no .*tristream\.test\.outcomes.*make these topics"):
            bus.create_topics()
        maker = connect(broker.bootstrap_servers)
        maker.create_topics()
        bus.create_topics()
        maker.close()
        bus.close()

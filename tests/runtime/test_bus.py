"""The contract of a bus, run in memory, on the embedded broker, and on Apache Kafka if KAFKA_HOME is set."""

import dataclasses
import time

import pytest

from buses import make_outcome, publish_raw, read_errors, read_numbers
from tristream.config.bus import BusSection
from tristream.runtime.bus.kafka import KafkaBus
from tristream.runtime.bus.memory import MemoryBus
from tristream.runtime.bus.protocol import Bus
from tristream.runtime.errors import UserError
from tristream.wire.events import Ledger, LogPosition, PolicyVersion, Weights
from tristream.wire.topics import DEAD_LETTERS, OUTCOMES, POLICY

FOREIGN = "written under contract 1, and this version of tristream reads contract 2"


DURABLE = Ledger(
    step=0, settled=(), num_dropped=0, dropped_checksum=0, epoch=1, position=LogPosition(log_id="", offsets=())
)


class TestBusContract:
    def test_a_reader_sees_everything_published_before_and_after_it(self, bus: Bus) -> None:
        for number in range(50):
            bus.publish(OUTCOMES, make_outcome(number))
        bus.flush()
        reader = bus.reader([OUTCOMES])
        assert {record.event.group.number for record in reader.read_to_end()} == set(range(50))
        bus.publish(OUTCOMES, make_outcome(50)).result(60)
        seen: list[int] = []
        deadline = time.monotonic() + 60
        while not seen and time.monotonic() < deadline:
            seen = [record.event.group.number for record in reader.poll(0.5)]
        assert seen == [50]
        reader.close()

    def test_reading_to_the_end_of_nothing_returns_nothing_twice(self, bus: Bus) -> None:
        reader = bus.reader([OUTCOMES, POLICY])
        assert not list(reader.read_to_end())
        assert not list(reader.read_to_end())
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
        bus.publish(OUTCOMES, make_outcome(0)).result(60)
        reader = bus.reader([OUTCOMES], group="rare")
        deadline = time.monotonic() + 60
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
        assert len(list(first.read_to_end())) == 10
        first.commit()
        bus.publish(OUTCOMES, make_outcome(10))
        bus.flush()
        assert len(list(first.read_to_end())) == 1  # not committed
        first.close()
        second = bus.reader([OUTCOMES], group="workers")
        assert [record.event.group.number for record in second.read_to_end()] == [10]
        second.close()

    def test_a_group_goes_on_at_positions_that_were_committed_and_others_stay(self, bus: Bus) -> None:
        for number in range(30):
            bus.publish(OUTCOMES, make_outcome(number))
        bus.flush()
        first = bus.reader([OUTCOMES], group="workers")
        records = list(first.read_to_end())
        of_one = [record for record in records if record.partition == records[0].partition]
        third = of_one[2]
        first.commit({("outcomes", third.partition): third.offset, ("outcomes", 77): 5, ("prompts", 0): 1})
        first.close()
        second = bus.reader([OUTCOMES], group="workers")
        again = list(second.read_to_end())
        second.close()
        done = {of_one[0].event.group.number, of_one[1].event.group.number}
        assert {record.event.group.number for record in again} == set(range(30)) - done

    def test_positions_that_are_committed_do_not_move_the_reader(self, bus: Bus) -> None:
        for number in range(10):
            bus.publish(OUTCOMES, make_outcome(number))
        bus.flush()
        reader = bus.reader([OUTCOMES], group="workers")
        records = list(reader.read_to_end())
        reader.commit({("outcomes", record.partition): record.offset for record in records[:1]})
        reader.commit({})
        bus.publish(OUTCOMES, make_outcome(10))
        bus.flush()
        assert [record.event.group.number for record in reader.read_to_end()] == [10]
        reader.close()

    def test_offsets_say_where_to_start(self, bus: Bus) -> None:
        for number in range(30):
            bus.publish(OUTCOMES, make_outcome(number))
        bus.flush()
        reader = bus.reader([OUTCOMES])
        records = list(reader.read_to_end())
        reader.close()
        partition = records[0].partition
        offsets = sorted(record.offset for record in records if record.partition == partition)
        start = offsets[len(offsets) // 2]
        late = bus.reader([OUTCOMES], offsets={("outcomes", partition): start})
        again = sorted(record.offset for record in late.read_to_end() if record.partition == partition)
        assert again == [offset for offset in offsets if offset >= start]
        late.close()

    def test_a_malformed_record_goes_to_the_dead_letters_and_the_rest_goes_on(self, bus: Bus) -> None:
        publish_raw(bus, "key", b"\xff\xff junk", {"contract": b"2", "trace": b"1"})
        bus.publish(OUTCOMES, make_outcome(1))
        bus.flush()
        reader = bus.reader([OUTCOMES])
        assert [record.event.group.number for record in reader.read_to_end()] == [1]
        reader.close()
        bus.flush()
        letters = bus.reader([DEAD_LETTERS])
        (letter,) = [record.event for record in letters.read_to_end()]
        assert letter.value == b"\xff\xff junk"
        assert letter.headers == {"contract": b"2", "trace": b"1"}
        assert "protobuf" in letter.error
        letters.close()

    def test_a_paused_reader_gets_nothing_until_it_resumes(self, bus: Bus) -> None:
        reader = bus.reader([OUTCOMES])
        assert not list(reader.read_to_end())
        reader.pause()
        bus.publish(OUTCOMES, make_outcome(1))
        bus.flush()
        assert not reader.poll(0.5)
        reader.resume()
        assert len(list(reader.read_to_end())) == 1
        reader.close()

    def test_a_compacted_topic_takes_versions_of_one_key(self, bus: Bus) -> None:
        for version in range(3):
            weights = Weights(version=version, uri="file:///w", sha256="0")
            bus.publish(
                POLICY, PolicyVersion(run=bus.run, weights=weights, total_steps=3, durable=DURABLE, created_ns=version)
            )
        bus.flush()
        reader = bus.reader([POLICY])
        assert [record.event.weights.version for record in reader.read_to_end()][-1] == 2
        reader.close()

    @pytest.mark.parametrize("group", [None, "workers"])
    @pytest.mark.parametrize(("headers", "contract"), [({}, "1"), ({"contract": b"3"}, "3")])
    def test_a_log_that_was_begun_under_another_contract_is_refused(
        self, bus: Bus, group: str | None, headers: dict[str, bytes], contract: str
    ) -> None:
        if isinstance(bus, KafkaBus):
            bus.publish_barriers(OUTCOMES, range(4), "of an earlier reader")
        outcome = make_outcome(0, bus.run)
        publish_raw(bus, outcome.group.id, OUTCOMES.codec.encode(outcome), headers)
        reader = bus.reader([OUTCOMES], group=group)
        with pytest.raises(UserError, match=f"contract {contract}, .* reads contract 2") as caught:
            list(reader.read_to_end())
        reader.close()
        assert caught.value.where == f"run {bus.run}, topic outcomes"
        assert "\n" not in str(caught.value)

    def test_another_contract_later_in_a_log_is_a_dead_letter(self, bus: Bus) -> None:
        outcome = make_outcome(0, bus.run)
        bus.publish(OUTCOMES, outcome)
        bus.flush()
        publish_raw(bus, outcome.group.id, OUTCOMES.codec.encode(outcome), {})
        assert read_numbers(bus.reader([OUTCOMES])) == [0]
        assert read_errors(bus) == [FOREIGN]

    def test_another_contract_where_a_reader_goes_on_is_a_dead_letter(self, bus: Bus) -> None:
        outcome = make_outcome(0, bus.run)
        bus.publish(OUTCOMES, outcome)
        bus.flush()
        first = bus.reader([OUTCOMES])
        (record,) = list(first.read_to_end())
        first.close()
        publish_raw(bus, outcome.group.id, OUTCOMES.codec.encode(outcome), {})
        offsets = {("outcomes", record.partition): record.offset + 1}
        assert read_numbers(bus.reader([OUTCOMES], offsets=offsets)) == []
        assert read_errors(bus) == [FOREIGN]

    @pytest.mark.parametrize(("key", "is_junk"), [("RUN/0", True), ("another/0", True), ("another/0", False)])
    def test_what_is_not_an_event_of_the_run_at_the_start_of_a_log_is_a_dead_letter(
        self, bus: Bus, key: str, is_junk: bool
    ) -> None:
        value = b"\xff\xff junk" if is_junk else OUTCOMES.codec.encode(make_outcome(0, "another"))
        publish_raw(bus, key.replace("RUN", bus.run), value, {})
        bus.publish(OUTCOMES, make_outcome(1, bus.run))
        bus.flush()
        assert read_numbers(bus.reader([OUTCOMES])) == [1]
        assert read_errors(bus) == [FOREIGN]


def test_a_bus_needs_the_address_of_a_broker() -> None:
    with pytest.raises(UserError, match="no broker is given"):
        KafkaBus("test", BusSection(), "test")


def test_a_long_value_is_cut_in_its_dead_letter() -> None:
    bus = MemoryBus("test")
    publish_raw(bus, "key", b"\xff" * (2**20 + 1), {})
    assert not list(bus.reader([OUTCOMES]).read_to_end())
    (letter,) = [record.event for record in bus.reader([DEAD_LETTERS]).read_to_end()]
    assert (len(letter.value), letter.error) == (2**20, f"{FOREIGN} (cut from {2**20 + 1} bytes)")

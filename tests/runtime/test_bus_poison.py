"""Records that nobody should have written: each becomes a dead letter, the rest is read, and every reader lives."""

import pytest

from buses import make_outcome, publish_odd, publish_raw, read_errors, read_letters, read_numbers
from tristream.runtime.bus.kafka import KafkaBus
from tristream.runtime.bus.protocol import Bus, EventTooLargeError
from tristream.wire.topics import MAX_RECORD_BYTES, OUTCOMES

LARGEST_VALUE_BYTES = MAX_RECORD_BYTES - 150


def test_an_event_too_large_is_refused_and_the_bus_is_as_it_was(bus: Bus) -> None:
    before = bus.publish(OUTCOMES, make_outcome(0))
    with pytest.raises(EventTooLargeError, match=r"an event of outcomes takes \d+ bytes, 8388608 fit"):
        bus.publish(OUTCOMES, make_outcome(1, sample_id="x" * MAX_RECORD_BYTES))
    bus.tell(OUTCOMES, make_outcome(1, sample_id="x" * MAX_RECORD_BYTES))
    almost = make_outcome(2, sample_id="x" * (MAX_RECORD_BYTES - 1000))
    bus.publish(OUTCOMES, almost).result(20)
    bus.flush()
    before.result(1)
    assert sorted(read_numbers(bus.reader([OUTCOMES]))) == [0, 2]


def test_an_undecodable_record_of_the_largest_size_is_a_cut_dead_letter_for_every_reader(bus: Bus) -> None:
    publish_raw(bus, "key", b"\xff" * LARGEST_VALUE_BYTES, {"contract": b"2"})
    bus.publish(OUTCOMES, make_outcome(1)).result(10)
    for _ in range(2):
        assert read_numbers(bus.reader([OUTCOMES])) == [1]
    letters = read_letters(bus)
    assert [len(letter.value) for letter in letters] == [2**20, 2**20]
    assert all(f"(cut from {LARGEST_VALUE_BYTES} bytes)" in letter.error for letter in letters)


def test_long_keys_and_headers_are_cut_in_a_dead_letter(bus: Bus) -> None:
    publish_raw(bus, "k" * 2**21, b"\xff", {"contract": b"2", "note": b"x" * 2**22})
    assert read_numbers(bus.reader([OUTCOMES])) == []
    (letter,) = read_letters(bus)
    assert (len(letter.key), letter.headers, letter.value) == (2**16, {}, b"\xff")
    assert f"its key is cut from {2**21} bytes" in letter.error
    assert "without its headers" in letter.error


def test_odd_keys_and_headers_reach_nobody_and_harm_nobody(bus: Bus) -> None:
    if not isinstance(bus, KafkaBus):
        pytest.skip("a matter of Kafka's format")
    value = OUTCOMES.codec.encode(make_outcome(1, bus.run))
    publish_odd(bus, None, value, [("contract", b"2")])
    publish_odd(bus, b"\xff\xfe", value, [("contract", b"2"), ("note", None)])
    publish_odd(bus, b"key", value, [("contract", b"1"), ("contract", b"2")])
    publish_odd(bus, b"key", value, [("contract", b"2"), ("epoch", None)])
    publish_odd(bus, b"key", None, [("contract", b"2")])
    publish_odd(bus, b"key", b"\xff", [("contract", b"2"), ("note", b"\xff\xfe")])
    reader = bus.reader([OUTCOMES])
    records = list(reader.read_to_end())
    reader.close()
    assert [(record.event.group.number, record.key) for record in records] == [(1, ""), (1, "��"), (1, "key")]
    assert dict(records[1].headers) == {"contract": b"2", "note": b""}
    letters = read_letters(bus)
    assert [(letter.key, letter.value) for letter in letters] == [(b"key", value), (b"key", b""), (b"key", b"\xff")]
    assert letters[0].error == "void: '' is no epoch"
    assert letters[2].headers["note"] == b"\xff\xfe"


def test_a_header_whose_name_is_no_text_makes_its_record_alone_a_dead_letter(bus: Bus) -> None:
    if not isinstance(bus, KafkaBus):
        pytest.skip("a matter of Kafka's format")
    first, last = (make_outcome(number, bus.run) for number in (1, 2))
    bus.publish(OUTCOMES, first).result(10)

    class Odd(str):
        """A header's name whose bytes are no UTF-8."""

        __slots__ = ()

        def encode(self, *_arguments: object, **_options: object) -> bytes:
            return b"\xff\xfe"

    bus.send(OUTCOMES, first.group.id.encode(), b"poison", [(Odd("note"), b"x")]).result(10)
    bus.publish(OUTCOMES, last).result(10)
    for group in (None, "workers"):
        assert sorted(read_numbers(bus.reader([OUTCOMES], group=group))) == [1, 2]
    letters = read_letters(bus)
    assert len(letters) == 2
    assert all(b"poison" in letter.value and letter.headers == {} for letter in letters)
    assert read_errors(bus)[0].startswith("written under contract 1")

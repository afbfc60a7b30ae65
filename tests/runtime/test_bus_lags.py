"""How many records a part has not read yet, on every bus: what was published less what was polled."""

import time

import pytest

from buses import make_outcome
from tristream.runtime.bus import kafka_reader
from tristream.runtime.bus.protocol import Bus
from tristream.wire.topics import OUTCOMES, REWARDS

NUM_RECORDS = 200


def test_the_lag_of_a_topic_is_what_its_readers_have_not_polled(bus: Bus, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kafka_reader, "LAG_SECONDS", 0.0)
    for number in range(NUM_RECORDS):
        bus.publish(OUTCOMES, make_outcome(number))
    bus.flush()
    reader = bus.reader([OUTCOMES, REWARDS])
    polled: list[object] = []
    deadline = time.monotonic() + 60
    lags = []
    while len(polled) < NUM_RECORDS:
        assert time.monotonic() < deadline
        polled += reader.poll(0.1, max_records=20)
        lags.append((len(polled), dict(bus.lags)))
    assert lags[-1][1] == {"outcomes": 0, "rewards": 0}
    assert any(0 < by_topic["outcomes"] <= NUM_RECORDS - number for number, by_topic in lags if number > 0)
    assert all(by_topic["outcomes"] <= NUM_RECORDS - number for number, by_topic in lags)
    reader.close()
    assert bus.lags == {}

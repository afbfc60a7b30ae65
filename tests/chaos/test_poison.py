"""Everything that nobody should put on the topics of a run is put on all of them: the run does not care."""

import signal
from pathlib import Path

import pytest

from chaos_stream import ChaosStream, only_in_full, started_chaos
from poison import Dose, corpus, put, take_samples
from tristream.runtime.bus.kafka import KafkaBus
from tristream.wire.topics import DEAD_LETTERS

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(600)]

NUM_STEPS_AFTER = 15
SLOW_SECONDS = 1.0
"""How long a step takes while the records are put, so that the run is not over before they are read."""


@pytest.mark.parametrize("kind", [pytest.param("kafka", marks=only_in_full), "embedded"])
def test_a_run_goes_on_over_poison_on_every_topic_and_names_it_in_dead_letters(kind: str, tmp_path: Path) -> None:
    with started_chaos(tmp_path, kind, steps=80, with_monitor=True, rollout__pause_source_after=0) as stream:
        stream.wait_until(lambda: stream.version >= 3, what="the first steps")
        bus = KafkaBus(stream.settings.run.id, stream.settings.bus, "poisoner")
        try:
            stream.pace(SLOW_SECONDS)
            places = put(bus, corpus(take_samples(bus)))
            stream.note(f"put {len(places)} records at version {stream.version}")
            stream.pace(0.1)
            before = stream.version
            stream.wait_until(lambda: stream.version >= before + NUM_STEPS_AFTER, what="steps after the poison")
            assert [name for name, member in stream.members.items() if member.exit_codes] == [], stream.report()
            for member in stream.members.values():
                member.signal(signal.SIGKILL)
            stream.note("all parts killed")
            stream.finish()
            for member in stream.members.values():
                assert set(member.exit_codes) <= {0, -signal.SIGKILL}, stream.report()
            stream.must_balance()
            check_letters(stream, bus, places)
        finally:
            bus.close()


def check_letters(stream: ChaosStream, bus: KafkaBus, places: list[tuple[Dose, int, int]]) -> None:
    """Each record that is no event has a dead letter, with a reason."""
    reader = bus.reader([DEAD_LETTERS])
    letters = {
        (record.event.topic, record.event.partition, record.event.offset): record.event.error
        for record in reader.read_to_end()
    }
    reader.close()
    unnamed = [
        f"{dose.name} on {dose.topic.name} {partition}"
        for dose, partition, offset in places
        if dose.must_be_named and not letters.get((dose.topic.name, partition, offset))
    ]
    assert not unnamed, stream.report()

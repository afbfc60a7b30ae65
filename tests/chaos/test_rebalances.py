"""Producers and verifier workers come and go; their groups go on."""

import signal
from pathlib import Path

import pytest

from chaos_stream import only_in_full, started_chaos
from tristream.wire.events import Part

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(600)]

NUM_ROUNDS = 4
ROUND_SECONDS = 5.0


@only_in_full
@pytest.mark.parametrize("kind", ["kafka", "embedded"])
def test_second_producers_and_workers_that_join_and_die_leave_a_run_that_goes_on(kind: str, tmp_path: Path) -> None:
    with started_chaos(tmp_path, kind, steps=250, with_monitor=kind == "embedded") as stream:
        stream.wait_until(lambda: stream.version >= 2, what="the first steps")
        for number in range(NUM_ROUNDS):
            others = [stream.add(part, f"{part}-{number + 2}") for part in (Part.PRODUCER, Part.VERIFIER)]
            stream.wait(ROUND_SECONDS)
            for member in others:
                member.is_wanted = False
                member.signal(signal.SIGKILL if number % 2 else signal.SIGTERM)
            stream.note(f"round {number}: others leave at version {stream.version}")
            stream.wait(ROUND_SECONDS)
        stream.finish(300)
        stream.must_balance()

"""A part dies at the point that it is told to, and nowhere else."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from brokers import running_broker

THREE_POINTS = """
from tristream.runtime.hooks import name_this_part, reach
name_this_part("learner")
for number in range(3):
    print("before", number, flush=True)
    reach("checkpoint.renamed")
    reach("weights.renamed")
"""
ONE_ROUND = """
import sys
from tristream.config.bus import BusSection
from tristream.runtime.bus.kafka import KafkaBus
from tristream.runtime.part import start_part
from tristream.wire.events import DropReason, Fate, Group, Outcome, Part, Split
from tristream.wire.topics import OUTCOMES

start_part(Part.ASSEMBLER)
bus = KafkaBus(sys.argv[2], BusSection(bootstrap_servers=sys.argv[1]), Part.ASSEMBLER)
bus.create_topics()
reader = bus.reader([OUTCOMES], group="workers")
group = Group(run=bus.run, split=Split.TRAIN, number=0, source="words", sample_id="0", size=8)
print("publish.outcomes", flush=True)
bus.publish(OUTCOMES, Outcome(group=group, fate=Fate.DROPPED, drop_reason=DropReason.STALE, created_ns=0))
print("flush", flush=True)
bus.flush()
while not reader.poll(0.1):
    pass
print("commit", flush=True)
reader.commit()
print("end", flush=True)
"""


def run_child(program: str, kill_at: str, *arguments: str) -> tuple[int, list[str]]:
    """Exit status and output lines of a child that is told to die at a point."""
    environment = {**os.environ, "TRISTREAM_KILL_AT": kill_at}
    command = [sys.executable, "-c", program, *arguments]
    done = subprocess.run(command, env=environment, check=False, capture_output=True, text=True, timeout=60)
    return done.returncode, done.stdout.splitlines()


@pytest.mark.parametrize(
    ("kill_at", "status", "num_lines"),
    [
        ("learner:checkpoint.renamed", -signal.SIGKILL, 1),
        ("learner:weights.renamed:1", -signal.SIGKILL, 1),
        ("learner:checkpoint.renamed:3", -signal.SIGKILL, 3),
        ("learner:checkpoint.renamed:4", 0, 3),
        ("learner:checkpoint", 0, 3),
        ("producer:checkpoint.renamed", 0, 3),
        ("", 0, 3),
    ],
)
def test_a_part_is_killed_when_it_reaches_its_point_the_nth_time(kill_at: str, status: int, num_lines: int) -> None:
    returned, lines = run_child(THREE_POINTS, kill_at)
    assert (returned, len(lines)) == (status, num_lines)


@pytest.fixture(scope="module")
def bootstrap(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with running_broker("embedded", tmp_path_factory.mktemp("broker")) as address:
        yield address


@pytest.mark.parametrize("point", ["publish.outcomes", "flush", "commit"])
def test_a_part_can_be_killed_at_each_call_of_its_bus(bootstrap: str, point: str) -> None:
    returned, lines = run_child(ONE_ROUND, f"assembler:{point}", bootstrap, f"kill-at-{point.replace('.', '-')}")
    assert (returned, lines[-1]) == (-signal.SIGKILL, point)

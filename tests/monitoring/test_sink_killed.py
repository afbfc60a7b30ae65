"""A sink that is killed again and again, or frozen, for real, leaves every raw row and every closed figure exact."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import killed_sink
from tristream.runtime.bus.memory import MemoryBus
from tristream.wire import topics

NUM_KILLS = 20
NUM_STEPS = int(os.environ.get("KILLED_SINK_STEPS", "16"))
"""Of the run that is written; a thousand are 200,000 events."""
LONGEST_LIFE_SECONDS = 4.0
PROGRAM = Path(killed_sink.__file__)


def start(folder: Path, what: str) -> "subprocess.Popen[str]":
    command = [sys.executable, str(PROGRAM), str(folder), what]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})


@pytest.mark.slow
@pytest.mark.integration
@pytest.mark.timeout(1800)
def test_twenty_kills_at_random_leave_raw_and_closed_tables_exact(
    bus: MemoryBus, make_run: Callable[[MemoryBus, int], None], tmp_path: Path
) -> None:
    make_run(bus, NUM_STEPS)
    killed_sink.save_log(bus, tmp_path)
    draw, num_kills = random.Random(14), 0
    for _ in range(NUM_KILLS):
        process = start(tmp_path, "write")
        assert process.stdout is not None
        assert process.stdout.readline() == "reading\n"
        try:
            process.wait(timeout=draw.random() * LONGEST_LIFE_SECONDS)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            num_kills += 1
        process.communicate()
    assert start(tmp_path, "write").wait() == 0
    check(bus, tmp_path)
    assert num_kills > 0


@pytest.mark.slow
@pytest.mark.integration
@pytest.mark.timeout(600)
def test_a_sink_that_was_frozen_and_wakes_after_its_successor_leaves_tables_exact(
    bus: MemoryBus, make_run: Callable[[MemoryBus, int], None], tmp_path: Path
) -> None:
    make_run(bus, 8)
    killed_sink.save_log(bus, tmp_path)
    processes = [server := start(tmp_path, "serve")]
    assert server.stdout is not None
    try:
        assert server.stdout.readline() == "serving\n"
        processes.append(frozen := start(tmp_path, "write"))
        assert frozen.stdout is not None
        assert [frozen.stdout.readline() for _ in range(2)] == ["reading\n", "wrote\n"]
        time.sleep(0.2)  # so that it is amid a batch
        frozen.send_signal(signal.SIGSTOP)
        assert start(tmp_path, "write").wait() == 0
        assert frozen.poll() is None, "it was done before it could be frozen"
        frozen.send_signal(signal.SIGCONT)
        assert frozen.wait() == 0
        check(bus, tmp_path)
    finally:
        for process in processes:
            process.kill()
            process.communicate()


def check(bus: MemoryBus, folder: Path) -> None:
    """Every event is a row once, and closed figures are what they must be."""
    with start(folder, "check") as process:
        found = json.loads(process.communicate()[0])
    assert found["differences"] == []
    for topic in topics.ALL_TOPICS:
        num_events = sum(1 for _ in bus.reader([topic]).read_to_end())
        assert found["counts"][topic.name] == num_events, topic.name

"""What a process takes is told with its statuses: processor time and memory, those of its children too."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from statuses import make_status
from tristream.runtime.bus.memory import MemoryBus
from tristream.runtime.process_measures import read_process_measures
from tristream.runtime.run_folder import RunFolder
from tristream.runtime.status import PartReporter
from tristream.wire.events import Part, PartState
from tristream.wire.topics import PARTS, POLICY

MIB = 2**20
HOLD = f"data = bytearray(64 * {MIB}); print('held', flush=True); input()"
WORK = """
import time
end = time.process_time() + 0.3
while time.process_time() < end:
    pass
print("done", flush=True)
input()
"""


def run_child(code: str) -> subprocess.Popen[bytes]:
    child = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert child.stdout is not None
    child.stdout.readline()
    return child


def end(child: subprocess.Popen[bytes]) -> None:
    child.communicate(b"\n")


def test_memory_is_resident_memory_and_that_of_children() -> None:
    before = read_process_measures()["memory_bytes"]
    child = run_child(HOLD)
    during = read_process_measures()["memory_bytes"]
    end(child)
    assert during - before > 60 * MIB
    assert read_process_measures()["memory_bytes"] < during - 60 * MIB


def test_processor_time_of_a_child_counts_while_it_lives_and_after_its_end() -> None:
    before = read_process_measures()["cpu_seconds"]
    child = run_child(WORK)
    during = read_process_measures()["cpu_seconds"]
    end(child)
    after = read_process_measures()["cpu_seconds"]
    assert during - before >= 0.3
    assert after >= during - 0.02
    assert before >= 0.9 * sum(os.times()[:2]) - 0.5


def test_a_part_without_a_gpu_tells_of_none() -> None:
    torch = pytest.importorskip("torch")
    assert ("gpu_memory_bytes" in read_process_measures()) == torch.cuda.is_initialized()


def test_a_connected_part_tells_what_it_takes_and_what_it_has_not_read(tmp_path: Path) -> None:
    bus = MemoryBus("demo")
    reporter = PartReporter(RunFolder(tmp_path), "demo", Part.MONITOR, min_interval_seconds=0.0)
    reporter.report(PartState.STARTING, "the broker")
    assert "cpu_seconds" not in reporter.status.measures
    reader = bus.reader([POLICY, PARTS])
    for number in range(3):
        bus.publish(PARTS, make_status(Part.LEARNER, f"host-{number}"))
    reporter.connect_to(bus)
    reporter.report(PartState.READY, measures={"num_events": 7.0})
    told = [record.event for record in bus.reader([PARTS]).read_to_end()][-1].measures
    assert (told["lag_parts"], told["lag_policy"], told["num_events"]) == (3.0, 0.0, 7.0)
    assert told["cpu_seconds"] > 0
    assert told["memory_bytes"] > 10 * MIB
    reader.close()
    assert bus.lags == {"parts": 0}

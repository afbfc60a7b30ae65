"""The chart's probe reads the status files that parts write."""

import json
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tristream.runtime.run_folder import RunFolder
from tristream.runtime.status import PartReporter
from tristream.wire.events import Part, PartState

PROBE = Path(__file__).parents[2] / "deploy" / "helm" / "tristream" / "files" / "probe.py"


def status_file(folder: Path) -> Path:
    return RunFolder(folder).status / f"{Part.LEARNER}.json"


def probe(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(PROBE), str(status_file(folder)), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)


@pytest.fixture
def reporter(tmp_path: Path) -> PartReporter:
    return PartReporter(RunFolder(tmp_path), "demo", Part.LEARNER)


def test_a_ready_part_is_started_and_alive(tmp_path: Path, reporter: PartReporter) -> None:
    reporter.report(PartState.READY, "the batch of step 3")
    assert probe(tmp_path, "60").returncode == 0
    assert probe(tmp_path, "60", "ready").returncode == 0


def test_a_part_that_loads_its_model_is_alive_and_not_started(tmp_path: Path, reporter: PartReporter) -> None:
    reporter.report(PartState.STARTING, "the model")
    assert probe(tmp_path, "60").returncode == 0
    answer = probe(tmp_path, "60", "ready")
    assert (answer.returncode, answer.stderr) == (1, "starting, waiting for: the model\n")


def test_a_finished_part_is_well(tmp_path: Path, reporter: PartReporter) -> None:
    reporter.report(PartState.DONE)
    assert probe(tmp_path, "60", "ready").returncode == 0


def test_a_part_without_a_status_is_not_started(tmp_path: Path) -> None:
    answer = probe(tmp_path, "60", "ready")
    assert answer.returncode == 1
    assert answer.stderr.startswith("no status yet")


def test_a_silent_part_is_not_alive(tmp_path: Path, reporter: PartReporter) -> None:
    reporter.report(PartState.READY, "the broker")
    time.sleep(0.2)
    answer = probe(tmp_path, "0.1")
    assert answer.returncode == 1
    assert re.fullmatch(r"silent for \d+ s, waiting for: the broker\n", answer.stderr)


def test_a_status_from_before_the_container_started_is_none(tmp_path: Path, reporter: PartReporter) -> None:
    reporter.report(PartState.READY)
    path = status_file(tmp_path)
    path.write_text(json.dumps({**json.loads(path.read_text(encoding="utf-8")), "time": 0}), encoding="utf-8")
    answer = probe(tmp_path, "1e12", "ready")
    assert (answer.returncode, answer.stderr) == (1, "no status since the container started\n")

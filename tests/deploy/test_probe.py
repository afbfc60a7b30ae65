"""The chart's probe reads the status files that parts write."""

import json
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tristream.runtime.status import StatusFile

PROBE = Path(__file__).parents[2] / "deploy" / "helm" / "tristream" / "files" / "probe.py"


def probe(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(PROBE), str(folder / "learner.json"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)


@pytest.fixture
def status(tmp_path: Path) -> StatusFile:
    return StatusFile(tmp_path, "learner")


def test_a_ready_part_is_started_and_alive(tmp_path: Path, status: StatusFile) -> None:
    status.report("ready", "the batch of step 3")
    assert probe(tmp_path, "60").returncode == 0
    assert probe(tmp_path, "60", "ready").returncode == 0


def test_a_part_that_loads_its_model_is_alive_and_not_started(tmp_path: Path, status: StatusFile) -> None:
    status.report("starting", "the model")
    assert probe(tmp_path, "60").returncode == 0
    answer = probe(tmp_path, "60", "ready")
    assert (answer.returncode, answer.stderr) == (1, "starting, waiting for: the model\n")


def test_a_finished_part_is_well(tmp_path: Path, status: StatusFile) -> None:
    status.report("done")
    assert probe(tmp_path, "60", "ready").returncode == 0


def test_a_part_without_a_status_is_not_started(tmp_path: Path) -> None:
    answer = probe(tmp_path, "60", "ready")
    assert answer.returncode == 1
    assert answer.stderr.startswith("no status yet")


def test_a_silent_part_is_not_alive(tmp_path: Path, status: StatusFile) -> None:
    status.report("ready", "the broker")
    time.sleep(0.2)
    answer = probe(tmp_path, "0.1")
    assert answer.returncode == 1
    assert re.fullmatch(r"silent for \d+ s, waiting for: the broker\n", answer.stderr)


def test_a_status_from_before_the_container_started_is_none(tmp_path: Path, status: StatusFile) -> None:
    status.report("ready")
    path = tmp_path / "learner.json"
    path.write_text(json.dumps({**json.loads(path.read_text(encoding="utf-8")), "time": 0}), encoding="utf-8")
    answer = probe(tmp_path, "1e12", "ready")
    assert (answer.returncode, answer.stderr) == (1, "no status since the container started\n")

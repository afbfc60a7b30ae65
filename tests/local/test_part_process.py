"""A part's process is started again after a crash, and a refusal ends the run."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tristream.local.part_process import PartProcess
from tristream.runtime.errors import UserError
from tristream.runtime.run_folder import RunFolder
from tristream.runtime.status import instance_name
from tristream.wire.events import Part


def wait_until(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.05)


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    folder = RunFolder(tmp_path / "run")
    folder.logs.mkdir(parents=True)
    return folder


@pytest.mark.integration
def test_a_refused_input_is_passed_on_with_its_reason(folder: RunFolder) -> None:
    process = PartProcess(Part.LEARNER, "learn", folder)
    process.start()
    wait_until(lambda: process.pid is None)
    with pytest.raises(UserError, match=r"run\.json: no such file"):
        process.watch()


@pytest.mark.integration
def test_a_killed_part_is_started_again_and_stopped_for_good(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    process = PartProcess(Part.ASSEMBLER, "assemble", folder)
    monkeypatch.setattr(process, "_command", [sys.executable, "-c", "import time; time.sleep(60)"])
    process.start()
    first = process.pid
    assert first is not None
    assert process.instance == instance_name(first)
    os.kill(first, signal.SIGKILL)
    wait_until(lambda: process.pid is None)
    assert process.watch() == "assembler ended with signal SIGKILL; starting it again"
    assert process.instance == instance_name(first)
    wait_until(lambda: process.watch() is None and process.pid is not None)
    assert process.pid not in (None, first)
    process.stop(5.0)
    assert process.pid is None


@pytest.mark.integration
def test_a_part_that_crashes_again_and_again_ends_the_run(folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tristream.local.part_process.RESTART_PAUSE_SECONDS", 0.0)
    process = PartProcess(Part.LEARNER, "no-such-command", folder)
    monkeypatch.setattr(process, "_command", [sys.executable, "-c", "raise SystemExit('out of luck')"])
    process.start()

    def watch_on() -> bool:
        process.watch()
        return False

    with pytest.raises(UserError, match="crashed 5 times in a row: out of luck"):
        wait_until(watch_on)


@pytest.mark.integration
def test_a_part_that_asks_to_be_tried_again_is_with_growing_pauses_and_never_ends_the_run(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tristream.local.part_process.RESTART_PAUSE_SECONDS", 0.01)
    monkeypatch.setattr("tristream.local.part_process.LONGEST_PAUSE_SECONDS", 0.05)
    process = PartProcess(Part.MONITOR, "monitor", folder)
    code = "import sys; sys.stderr.write('tristream: the disk is full; try again\\n'); sys.exit(75)"
    monkeypatch.setattr(process, "_command", [sys.executable, "-c", code])
    process.start()
    news: list[str] = []

    def watch_on() -> bool:
        if line := process.watch():
            news.append(line)
        return len(news) >= 7

    wait_until(watch_on, seconds=30.0)
    process.stop(5.0)
    assert len(news) == 7
    assert set(news) == {"monitor is started again in 0 s: the disk is full; try again"}


@pytest.mark.integration
def test_a_part_whose_log_cannot_be_written_works(folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    folder.logs.rmdir()
    folder.logs.write_text("a file where the folder was")
    process = PartProcess(Part.PRODUCER, "produce", folder)
    monkeypatch.setattr(process, "_command", [sys.executable, "-c", "print('x', flush=True); raise SystemExit(2)"])
    process.start()
    wait_until(lambda: process.pid is None)
    with pytest.raises(UserError, match="it left no words"):
        process.watch()


@pytest.mark.integration
def test_a_part_has_its_secrets_from_the_environment_and_no_other_key(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRISTREAM__RUN__STEPS", "9")
    secret = {"TRISTREAM__MONITORING__CLICKHOUSE_URL": "http://a:b@c"}
    process = PartProcess(Part.MONITOR, "monitor", folder, secrets=secret)
    code = "import os; print({k: v for k, v in os.environ.items() if k.startswith('TRISTREAM__')})"
    monkeypatch.setattr(process, "_command", [sys.executable, "-c", code])
    process.start()
    wait_until(lambda: process.pid is None)
    assert folder.log(Part.MONITOR).read_text() == f"{secret}\n"


@pytest.mark.integration
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends a child with its parent")
def test_a_part_ends_when_the_process_that_started_it_is_killed(folder: RunFolder) -> None:
    code = (
        "import sys, time\n"
        "from pathlib import Path\n"
        "from tristream.local.part_process import spawn\n"
        "child = spawn([sys.executable, '-c', 'import time; time.sleep(60)'], Path(sys.argv[1]))\n"
        "print(child.pid, flush=True)\n"
        "time.sleep(60)\n"
    )

    parent = subprocess.Popen(
        [sys.executable, "-c", code, str(folder.log("learner"))], stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout is not None
    child = Path("/proc", parent.stdout.readline().strip(), "stat")
    assert child.exists()
    parent.kill()
    parent.communicate()
    wait_until(lambda: not child.exists() or child.read_text().rpartition(")")[2].split()[0] == "Z")
    assert not child.exists() or child.read_text().rpartition(")")[2].split()[0] == "Z"

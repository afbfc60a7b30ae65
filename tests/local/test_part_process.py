"""A part's process is started again after a crash, and a refusal ends the run."""

import os
import signal
import sys
import time
from pathlib import Path

import pytest

from tristream.local.part_process import PartProcess
from tristream.runtime.errors import UserError


def wait_until(condition: object, seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:  # type: ignore[operator]
        time.sleep(0.05)


@pytest.mark.integration
def test_a_refused_input_is_passed_on_with_its_reason(tmp_path: Path) -> None:
    process = PartProcess("learner", "learn", tmp_path / "absent.toml", tmp_path)
    process.start()
    wait_until(lambda: process.pid is None)
    with pytest.raises(UserError, match=r"absent\.toml: no such file"):
        process.watch()


@pytest.mark.integration
def test_a_killed_part_is_started_again_and_stopped_for_good(tmp_path: Path) -> None:
    run_file = tmp_path / "run.toml"
    run_file.write_text(
        f'[run]\nid = "x"\nsteps = 1\noutput = "{tmp_path}"\n[model]\npath = "."\n[[sources]]\nname = "s"\n'
        'train = "t"\n[bus]\nbootstrap_servers = "127.0.0.1:1"\nconnect_timeout_seconds = 60\n'
    )
    process = PartProcess("assembler", "assemble", run_file, tmp_path)
    process.start()
    first = process.pid
    assert first is not None
    os.kill(first, signal.SIGKILL)
    wait_until(lambda: process.pid is None)
    assert process.watch() == "assembler ended with signal SIGKILL; starting it again"
    wait_until(lambda: process.watch() is None and process.pid is not None)
    assert process.pid not in (None, first)
    process.stop(5.0)
    assert process.pid is None


@pytest.mark.integration
def test_a_part_that_crashes_again_and_again_ends_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tristream.local.part_process.RESTART_PAUSE_SECONDS", 0.0)
    process = PartProcess("learner", "no-such-command", tmp_path / "run.toml", tmp_path)
    monkeypatch.setattr(process, "_command", [sys.executable, "-c", "raise SystemExit('out of luck')"])
    process.start()

    def watch_on() -> bool:
        process.watch()
        return False

    with pytest.raises(UserError, match="crashed 5 times in a row: out of luck"):
        wait_until(watch_on)

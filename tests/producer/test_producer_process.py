"""The real process on a real broker: groups that come and go, and a broker that goes away."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from brokers import started_broker
from tristream.config.run_file import RunFile

pytestmark = [pytest.mark.integration, pytest.mark.slow]


def start_producer(settings: RunFile, folder: Path) -> "subprocess.Popen[bytes]":
    path = folder / "run.json"
    path.write_text(settings.model_dump_json())
    command = [sys.executable, "-c", "from tristream.cli.main import main; main()", "produce", "--run", str(path)]
    with (folder / "producer.log").open("ab") as log:
        return subprocess.Popen(command, stderr=log, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)})


def waiting_for(settings: RunFile) -> str:
    try:
        return str(json.loads((settings.run.folder.status / "producer.json").read_text())["waiting_for"])
    except FileNotFoundError:
        return ""


def wait_until(condition: Callable[[], bool], *, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGSTOP])
def test_a_broker_that_is_away_is_named_and_lets_go_of_a_producer_that_is_told_to_stop(
    make_settings: Callable[..., RunFile], tmp_path: Path, end: signal.Signals
) -> None:
    with started_broker("embedded", tmp_path) as broker:
        settings = make_settings(bus={"bootstrap_servers": broker.bootstrap_servers})
        producer = start_producer(settings, tmp_path)
        try:
            wait_until(lambda: waiting_for(settings) == "prompts from the dispatcher", seconds=90)
            assert broker._process is not None
            broker._process.send_signal(end)
            wait_until(lambda: broker.bootstrap_servers in waiting_for(settings), seconds=15)
            assert producer.poll() is None
            producer.send_signal(signal.SIGTERM)
            started = time.monotonic()
            assert producer.wait(timeout=60) == 0
            assert time.monotonic() - started < 15  # a few seconds of it are the end of torch
        finally:
            producer.kill()
            producer.wait()

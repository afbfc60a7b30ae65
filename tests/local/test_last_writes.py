"""At the end of a complete run the monitor is asked to end once it can write, and again if it could not."""

import json
import os
import sys
import threading
import time
from pathlib import Path

import pytest

from tristream.local.last_writes import finish_monitor
from tristream.local.part_process import PartProcess
from tristream.runtime.errors import TryAgainError
from tristream.runtime.run_folder import RunFolder
from tristream.wire.events import Part

MONITOR = """
import json, os, signal, socket, sys, time
folder, waits_seconds = sys.argv[1], float(sys.argv[2])
asked = []
signal.signal(signal.SIGTERM, lambda *_: asked.append(time.monotonic()))
began = time.monotonic()
first = not os.path.exists(folder + "/lives")
open(folder + "/lives", "a").write("x")
while True:
    waits = time.monotonic() - began < waits_seconds
    status = {"state": "ready", "waiting_for": "ClickHouse to take rows (away)" if waits else "", "time": time.time(),
              "instance": f"{socket.gethostname()}-{os.getpid()}", "address": "", "measures": {}}
    json.dump(status, open(folder + "/new", "w"))
    os.replace(folder + "/new", folder + "/monitor.json")
    if asked:
        sys.exit(75 if first else 0 if asked[0] - began >= waits_seconds else 9)
    time.sleep(0.02)
"""


def keep_broker() -> None:
    """It is still there."""


def lose_broker() -> None:
    raise TryAgainError("the broker ended, and its log with it")


@pytest.mark.integration
def test_the_monitor_ends_when_everything_is_written_and_not_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tristream.local.part_process.RESTART_PAUSE_SECONDS", 0.05)
    folder = RunFolder(tmp_path)
    folder.logs.mkdir()
    folder.status.mkdir()
    process = PartProcess(Part.MONITOR, "monitor", folder)
    monkeypatch.setattr(process, "_command", [sys.executable, "-c", MONITOR, str(folder.status), "1.0"])
    process.start()
    said: list[str] = []
    finish_monitor(process, folder, said.append, threading.Event(), watch_broker=keep_broker)
    assert process.exit_code == 0, folder.log(Part.MONITOR).read_text()
    assert (folder.status / "lives").read_text() == "xx", "it could not write the first time"
    assert "writing what is left: the monitor waits for ClickHouse to take rows (away)" in said
    assert any(line.startswith("monitor is started again in") for line in said)


@pytest.mark.integration
def test_a_monitor_that_cannot_write_its_file_is_asked_to_end_and_ctrl_c_gives_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tristream.local.last_writes.OLD_SECONDS", 0.3)
    folder = RunFolder(tmp_path)
    folder.logs.mkdir()
    process = PartProcess(Part.MONITOR, "monitor", folder)
    code = "import signal, sys, time; signal.signal(15, lambda *_: sys.exit(0)); print(flush=True); time.sleep(60)"
    monkeypatch.setattr(process, "_command", [sys.executable, "-c", code])
    stop = threading.Event()
    process.start()
    while not folder.log(Part.MONITOR).read_text():
        time.sleep(0.02)
    with pytest.raises(TryAgainError, match="its log with it"):
        finish_monitor(process, folder, print, stop, watch_broker=lose_broker)
    assert process.pid is not None, "it is left as it is"
    finish_monitor(process, folder, print, stop, watch_broker=keep_broker)
    assert process.exit_code == 0
    folder.status.mkdir()
    code = "import time; time.sleep(60)"
    monkeypatch.setattr(process, "_command", [sys.executable, "-c", code])
    process.start()
    waiting = {"state": "ready", "waiting_for": "ClickHouse", "time": time.time() + 60, "instance": process.instance}
    (folder.status / "monitor.json").write_text(json.dumps(waiting | {"address": "", "measures": {}}))
    threading.Timer(0.5, stop.set).start()
    finish_monitor(process, folder, print, stop, watch_broker=keep_broker)
    assert process.pid is not None
    os.kill(process.pid, 9)
    process.stop(5.0)

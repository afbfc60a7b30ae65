"""A part ends in order when it is told to, and its lines say whose they are."""

import signal
import subprocess
import sys

import pytest

PROGRAM = """
from tristream.runtime.part import start_part
from tristream.wire.events import Part
log, stop = start_part(Part.VERIFIER)
log.info("ready")
print("ready", flush=True)
stopped = stop.wait(30)
log.info("stopped" if stopped else "timed out")
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_a_part_in_order_and_its_log_names_it(number: signal.Signals) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        child.send_signal(number)
        _, log = child.communicate(timeout=60)
    assert child.returncode == 0
    assert [line.split(" ", 1)[1] for line in log.splitlines()] == ["verifier INFO ready", "verifier INFO stopped"]

"""The lease among real processes on a broker: frozen ones, crashed ones, and a broker that is frozen itself."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from brokers import started_broker
from tristream.config.bus import BusSection
from tristream.local.broker import Broker
from tristream.runtime.bus.kafka import KafkaBus
from tristream.runtime.errors import UserError
from tristream.runtime.lease import Lease
from tristream.runtime.run_folder import RunFolder
from tristream.runtime.status import PartReporter
from tristream.wire.events import Part
from tristream.wire.topics import OUTCOMES

HOLDER = """
import sys, time
from pathlib import Path
from tristream.config.bus import BusSection
from tristream.runtime.bus.kafka import KafkaBus
from tristream.runtime.lease import Lease, SupersededError
from tristream.runtime.part import start_part
from tristream.runtime.run_folder import RunFolder
from tristream.runtime.status import PartReporter
from tristream.wire.events import Part, PartState
from tristream.wire.topics import OUTCOMES

address, run, folder = sys.argv[1:]
_, stop = start_part(Part.ASSEMBLER)
reporter = PartReporter(RunFolder(Path(folder)), run, Part.ASSEMBLER)
bus = KafkaBus(run, BusSection(bootstrap_servers=address), Part.ASSEMBLER)
lease = Lease.claim(bus, reporter, [OUTCOMES], stop=stop)
print(lease.epoch, flush=True)
reporter.report(PartState.READY)
try:
    while not stop.wait(0.02):
        lease.check()
except SupersededError as error:
    print(error, flush=True)
    sys.exit(2)
lease.close()
bus.close()
"""


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    with started_broker("embedded", tmp_path_factory.mktemp("broker")) as broker:
        yield broker


@contextmanager
def connected(broker: Broker, run: str) -> Iterator[KafkaBus]:
    bus = KafkaBus(run, BusSection(bootstrap_servers=broker.bootstrap_servers), Part.ASSEMBLER)
    try:
        bus.create_topics()
        yield bus
    finally:
        bus.close()


@contextmanager
def holder(broker: Broker, run: str, folder: Path) -> Iterator["subprocess.Popen[str]"]:
    """A process that holds the part, under epoch 1."""
    command = [sys.executable, "-c", HOLDER, broker.bootstrap_servers, run, str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "1\n"
            yield process
        finally:
            process.send_signal(signal.SIGCONT)
            process.kill()


def claim(bus: KafkaBus, folder: Path) -> tuple[Lease, float]:
    """The lease, and how long it took to get it."""
    started = time.monotonic()
    lease = Lease.claim(bus, make_reporter(bus.run, folder), [OUTCOMES], stop=threading.Event())
    return lease, time.monotonic() - started


def make_reporter(run: str, folder: Path) -> PartReporter:
    return PartReporter(RunFolder(folder), run, Part.ASSEMBLER)


def test_a_free_part_and_one_whose_holder_crashed_are_taken_at_once(broker: Broker, tmp_path: Path) -> None:
    with connected(broker, "crashed") as bus:
        with holder(broker, bus.run, tmp_path) as process:
            process.kill()
            process.wait()
            lease, seconds = claim(bus, tmp_path)
            assert lease.epoch == 2
            assert seconds < 1.0  # half a second on a machine that does nothing else
            lease.close()
        lease, seconds = claim(bus, tmp_path)
        assert lease.epoch == 3
        assert seconds < 1.0
        lease.close()


def test_a_second_process_is_refused_within_five_seconds_and_the_first_goes_on(broker: Broker, tmp_path: Path) -> None:
    with connected(broker, "second") as bus, holder(broker, bus.run, tmp_path) as process:
        started = time.monotonic()
        with pytest.raises(UserError, match=f"-{process.pid} is its assembler already"):
            claim(bus, tmp_path)
        assert time.monotonic() - started < 5.0
        time.sleep(1.5)
        process.terminate()
        assert process.wait(60) == 0


def test_a_frozen_holder_is_replaced_within_six_seconds_and_ends_when_it_wakes(broker: Broker, tmp_path: Path) -> None:
    with connected(broker, "frozen") as bus, holder(broker, bus.run, tmp_path) as process:
        process.send_signal(signal.SIGSTOP)
        lease, seconds = claim(bus, tmp_path)
        assert lease.epoch == 2
        assert 3.5 < seconds < 6.0
        process.send_signal(signal.SIGCONT)
        words, _ = process.communicate(timeout=60)
        assert process.returncode == 2
        assert f"-{os.getpid()} has taken over as assembler under epoch 2" in words
        lease.check()
        lease.close()


def test_a_broker_that_is_frozen_makes_nobody_silent_and_nobody_age(broker: Broker, tmp_path: Path) -> None:
    assert broker._process is not None
    pid = broker._process.pid
    with connected(broker, "standstill") as bus, holder(broker, bus.run, tmp_path) as process:
        refusals: list[UserError] = []

        def try_to_claim() -> None:
            try:
                claim(bus, tmp_path)
            except UserError as error:
                refusals.append(error)

        other = KafkaBus("aging", BusSection(bootstrap_servers=broker.bootstrap_servers), Part.ASSEMBLER)
        other.create_topics()
        aging, _ = claim(other, tmp_path / "aging")
        watching = threading.Thread(target=try_to_claim)
        try:
            os.kill(pid, signal.SIGSTOP)
            watching.start()
            time.sleep(1.0)
            before = aging.log_seconds
            time.sleep(9.0)
        finally:
            os.kill(pid, signal.SIGCONT)
        watching.join(20)
        assert f"-{process.pid} is its assembler already" in str(refusals[0])
        assert aging.log_seconds - before < 4.0
        time.sleep(3.0)
        assert aging.log_seconds - before > 2.0
        aging.check()
        aging.close()
        other.close()
        assert process.poll() is None

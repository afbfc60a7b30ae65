"""A part tells what it does as an event and as a file, at once if it matters and not too often otherwise."""

import json
import logging
import os
import resource
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from brokers import started_broker
from faulty_bus import FaultyBus
from statuses import make_status
from tristream.config.bus import BusSection
from tristream.local.broker import Broker
from tristream.runtime.bus.kafka import KafkaBus
from tristream.runtime.bus.memory import MemoryBus
from tristream.runtime.run_folder import RunFolder
from tristream.runtime.status import PartReporter
from tristream.wire.events import Part, PartState, PartStatus, VerifierLoad
from tristream.wire.topics import PARTS

LONG_SECONDS = 60.0


def read_file(folder: Path, part: str = "learner") -> Any:
    return json.loads((folder / "status" / f"{part}.json").read_text())


def make_reporter(folder: Path, *, min_interval_seconds: float = 0.0) -> tuple[PartReporter, list[PartStatus]]:
    """A reporter that is connected, and what it publishes."""
    reporter = PartReporter(RunFolder(folder), "demo", Part.LEARNER, min_interval_seconds=min_interval_seconds)
    told: list[PartStatus] = []
    reporter.connect(told.append)
    return reporter, told


def messages_of_status(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What the reporter said: Kafka clients of other tests may still speak from threads of their own."""
    return [record.getMessage() for record in caplog.records if record.name == "tristream.status"]


def test_the_newest_status_is_an_event_and_a_file(tmp_path: Path) -> None:
    reporter, told = make_reporter(tmp_path)
    started_ns = time.time_ns()
    reporter.report(PartState.STARTING, "the model")
    reporter.report(PartState.READY, "a batch", address="127.0.0.1:1", measures={"version": 3})
    assert [status.state for status in told] == [PartState.STARTING, PartState.READY]
    status = told[-1]
    assert (status.run, status.part, status.instance) == ("demo", Part.LEARNER, reporter.instance)
    assert (status.waiting_for, status.address, status.measures) == ("a batch", "127.0.0.1:1", {"version": 3})
    assert status.started_ns <= started_ns <= status.since_ns <= status.created_ns <= time.time_ns()
    content = read_file(tmp_path)
    assert (content["state"], content["waiting_for"], content["measures"]) == ("ready", "a batch", {"version": 3})
    assert (content["instance"], content["address"]) == (reporter.instance, "127.0.0.1:1")
    assert [path.name for path in (tmp_path / "status").iterdir()] == ["learner.json"]


def test_facts_are_kept_until_they_are_replaced(tmp_path: Path) -> None:
    reporter, told = make_reporter(tmp_path)
    load = VerifierLoad(verifier="math", version="1", num_scored=5)
    reporter.report(PartState.READY, address="host:1", measures={"version": 1, "num_ranks": 2}, verifiers=(load,))
    reporter.report(PartState.READY, measures={"version": 2})
    assert (told[-1].address, told[-1].verifiers) == ("host:1", (load,))
    assert told[-1].measures == {"version": 2, "num_ranks": 2}
    assert told[0].measures == {"version": 1, "num_ranks": 2}


@pytest.mark.parametrize(
    ("state", "changes", "is_told"),
    [
        (PartState.READY, {"waiting_for": "a batch"}, False),
        (PartState.READY, {"measures": {"version": 2}}, False),
        (PartState.READY, {"address": "host:1"}, True),
        (PartState.DONE, {}, True),
    ],
)
def test_a_new_state_or_address_is_told_at_once_and_the_rest_after_an_interval(
    tmp_path: Path, state: PartState, changes: dict[str, Any], is_told: bool
) -> None:
    reporter, told = make_reporter(tmp_path, min_interval_seconds=LONG_SECONDS)
    reporter.report(PartState.READY)
    reporter.report(state, **changes)
    assert len(told) == (2 if is_told else 1)
    assert read_file(tmp_path)["time"] == pytest.approx(told[-1].created_ns / 1e9)


def test_what_was_not_told_in_the_interval_is_told_after_it(tmp_path: Path) -> None:
    reporter, told = make_reporter(tmp_path, min_interval_seconds=0.05)
    reporter.report(PartState.READY)
    reporter.report(PartState.READY, measures={"version": 1})
    time.sleep(0.06)
    reporter.report(PartState.READY)
    assert [status.measures for status in told] == [{}, {"version": 1}]


def test_a_wait_lasts_since_it_began_even_if_its_beginning_was_not_told(tmp_path: Path) -> None:
    reporter, told = make_reporter(tmp_path, min_interval_seconds=0.05)
    reporter.report(PartState.READY)
    reporter.report(PartState.READY, "a batch")
    time.sleep(0.06)
    now_ns = time.time_ns()
    reporter.report(PartState.READY, "a batch")
    time.sleep(0.06)
    reporter.report(PartState.READY, "a batch", measures={"version": 1})
    reporter.report(PartState.DONE)
    assert [status.waiting_for for status in told] == ["", "a batch", "a batch", ""]
    assert told[0].since_ns < told[1].since_ns == told[2].since_ns < now_ns < told[3].since_ns


def test_before_there_is_a_bus_only_the_file_is_written_and_then_the_status_is_told_at_once(tmp_path: Path) -> None:
    bus = MemoryBus("demo")
    reporter = PartReporter(RunFolder(tmp_path), "demo", Part.LEARNER, min_interval_seconds=LONG_SECONDS)
    reporter.report(PartState.STARTING, "the broker")
    assert read_file(tmp_path)["waiting_for"] == "the broker"
    reporter.connect(lambda status: bus.publish(PARTS, status))
    reporter.report(PartState.STARTING, "the model")
    (record,) = bus.reader([PARTS]).read_to_end()
    assert (record.key, record.event.waiting_for) == (f"learner/{reporter.instance}", "the model")


def wait_for(told: list[PartStatus], num_statuses: int) -> None:
    deadline = time.monotonic() + 60
    while len(told) < num_statuses:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_the_last_status_is_told_again_until_it_is_stopped(tmp_path: Path) -> None:
    reporter = PartReporter(RunFolder(tmp_path), "demo", Part.LEARNER, beat_seconds=0.05)
    told: list[PartStatus] = []
    reporter.connect(told.append)
    reporter.report(PartState.READY, "a batch", measures={"version": 3})
    reporter.start_beating()
    reporter.start_beating()
    wait_for(told, 4)
    reporter.stop_beating()
    num_told = len(told)
    time.sleep(0.2)
    assert len(told) == num_told
    assert {(status.state, status.waiting_for, status.since_ns) for status in told} == {
        (PartState.READY, "a batch", told[0].since_ns)
    }
    times_ns = [status.created_ns for status in told]
    assert times_ns == sorted(set(times_ns))
    assert read_file(tmp_path)["time"] == pytest.approx(told[-1].created_ns / 1e9, abs=0.04)


def test_a_status_names_the_epoch_of_its_process(tmp_path: Path) -> None:
    reporter, told = make_reporter(tmp_path)
    reporter.report(PartState.READY)
    reporter.hold(3)
    reporter.report(PartState.DONE)
    assert (reporter.epoch, [status.epoch for status in told]) == (3, [0, 3, 3])


def test_many_threads_tell_in_order(tmp_path: Path) -> None:
    reporter, told = make_reporter(tmp_path)
    reporter.start_beating()

    def tell(number: int) -> None:
        for count in range(50):
            reporter.report(PartState.READY, f"thread {number}", measures={f"count/{number}": count})

    threads = [threading.Thread(target=tell, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    reporter.stop_beating()
    assert [status.created_ns for status in told] == sorted(status.created_ns for status in told)
    assert told[-1].measures == {f"count/{number}": 49 for number in range(4)}
    assert read_file(tmp_path)["measures"] == told[-1].measures


def test_a_folder_that_cannot_be_written_ends_nobody_and_is_said_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "status").write_text("a file where the folder should be")
    with caplog.at_level(logging.WARNING):
        reporter, told = make_reporter(tmp_path)
        reporter.report(PartState.STARTING)
        reporter.report(PartState.READY)
    assert [status.state for status in told] == [PartState.STARTING, PartState.READY]
    (line,) = messages_of_status(caplog)
    assert line.startswith("the status file cannot be written: ")
    (tmp_path / "status").unlink()
    reporter.report(PartState.DONE)
    assert read_file(tmp_path)["state"] == "done"


def test_a_full_disk_ends_nobody_and_leaves_the_last_file_whole(tmp_path: Path) -> None:
    reporter, told = make_reporter(tmp_path)
    reporter.report(PartState.STARTING)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (10, hard))
        reporter.report(PartState.READY)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)
    assert [status.state for status in told] == [PartState.STARTING, PartState.READY]
    assert read_file(tmp_path)["state"] == "starting"
    reporter.report(PartState.DONE)
    assert read_file(tmp_path)["state"] == "done"


def test_a_status_that_cannot_be_told_ends_nobody_and_is_said_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    reporter = PartReporter(RunFolder(tmp_path), "demo", Part.LEARNER, min_interval_seconds=0.0)
    faulty = FaultyBus(MemoryBus("demo"))
    faulty.refuse("publish", times=2)
    reporter.connect(lambda status: faulty.publish(PARTS, status))
    with caplog.at_level(logging.WARNING):
        for state in (PartState.STARTING, PartState.READY, PartState.DONE):
            reporter.report(state)
    assert [record.event.state for record in faulty.inner.reader([PARTS]).read_to_end()] == [PartState.DONE]
    assert [line.split(":")[0] for line in messages_of_status(caplog)] == ["a status cannot be told"]
    assert read_file(tmp_path)["state"] == "done"


@contextmanager
def frozen(broker: Broker) -> Iterator[None]:
    assert broker._process is not None
    os.kill(broker._process.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(broker._process.pid, signal.SIGCONT)


def wait_for_words(folder: Path, words: str, *, timeout_seconds: float) -> None:
    deadline = time.monotonic() + timeout_seconds
    while words not in read_file(folder)["waiting_for"]:
        assert time.monotonic() < deadline, read_file(folder)
        time.sleep(0.1)


def test_a_part_that_is_stuck_in_a_call_of_a_frozen_broker_names_it_within_15_seconds(tmp_path: Path) -> None:
    with started_broker("embedded", tmp_path) as broker:
        bus = KafkaBus("demo", BusSection(bootstrap_servers=broker.bootstrap_servers), Part.LEARNER)
        bus.create_topics()
        reporter = PartReporter(RunFolder(tmp_path), "demo", Part.LEARNER)
        reporter.connect_to(bus)
        reporter.start_beating()
        reporter.report(PartState.READY, "a batch")
        bus.flush()
        with frozen(broker):
            bus.publish(PARTS, make_status(Part.LEARNER))
            stuck = threading.Thread(target=bus.flush)
            stuck.start()
            place = f"the broker at {broker.bootstrap_servers} (no answer for "
            wait_for_words(tmp_path, place, timeout_seconds=15)
            reporter.report(PartState.READY, "a batch")
            assert read_file(tmp_path)["waiting_for"].startswith(place)
        wait_for_words(tmp_path, "a batch", timeout_seconds=5)
        stuck.join(20)
        reporter.stop_beating()
        bus.flush()
        told = [record.event.waiting_for for record in bus.reader([PARTS]).read_to_end()]
        assert any(words.startswith(place) for words in told)
        bus.close()

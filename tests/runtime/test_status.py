"""A part tells what it does as an event and as a file, at once if it matters and not too often otherwise."""

import json
import time
from pathlib import Path
from typing import Any

import pytest

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

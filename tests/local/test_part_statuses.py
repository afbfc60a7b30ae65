"""Of each part is known what its processes told since the run was started, and which of them was started last."""

import pytest

from statuses import make_status
from tristream.local.part_statuses import QUIET_SECONDS, PartStatuses
from tristream.runtime.bus.memory import MemoryBus
from tristream.wire.events import Part, PartState, PartStatus
from tristream.wire.topics import PARTS

SECOND_NS = 10**9
NOW_NS = 1_800_000_000 * SECOND_NS


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tristream.local.part_statuses.time.time_ns", lambda: NOW_NS)


def follow(*told: PartStatus, since_ns: int = NOW_NS) -> PartStatuses:
    bus = MemoryBus("demo")
    for status in told:
        bus.publish(PARTS, status)
    statuses = PartStatuses(bus.reader([PARTS]), since_ns=since_ns)
    statuses.update()
    return statuses


def test_the_newest_status_of_a_process_counts() -> None:
    statuses = follow(
        make_status(Part.LEARNER, state=PartState.STARTING, created_ns=NOW_NS),
        make_status(Part.LEARNER, measures={"version": 3.0}, created_ns=NOW_NS + 1),
    )
    newest = statuses.newest(Part.LEARNER)
    assert newest is not None
    assert (newest.state, newest.measures) == (PartState.READY, {"version": 3.0})
    assert statuses.newest(Part.MONITOR) is None


def test_what_an_earlier_start_of_the_run_told_is_ignored() -> None:
    statuses = follow(make_status(Part.LEARNER, state=PartState.DONE, created_ns=NOW_NS - 1))
    assert statuses.newest(Part.LEARNER) is None
    assert statuses.by_part() == {}


def test_two_processes_of_a_part_are_two() -> None:
    statuses = follow(
        make_status(Part.PRODUCER, "host-2", started_ns=20, created_ns=NOW_NS),
        make_status(Part.PRODUCER, "host-1", started_ns=10, created_ns=NOW_NS + 5),
    )
    newest = statuses.newest(Part.PRODUCER)
    assert newest is not None
    assert newest.instance == "host-2"
    assert [status.instance for status in statuses.by_part()[Part.PRODUCER]] == ["host-1", "host-2"]


def test_a_process_that_is_done_or_silent_is_not_counted_beside_a_newer_one() -> None:
    long_ago = NOW_NS - 3600 * SECOND_NS
    done = make_status(Part.PRODUCER, "done", state=PartState.DONE, started_ns=1, created_ns=NOW_NS)
    silent = make_status(Part.PRODUCER, "silent", started_ns=2, created_ns=long_ago)
    alone = follow(silent, since_ns=long_ago)
    assert [status.instance for status in alone.by_part()[Part.PRODUCER]] == ["silent"]
    newer = make_status(Part.PRODUCER, "newer", started_ns=3, created_ns=NOW_NS)
    together = follow(done, silent, newer, since_ns=long_ago)
    assert [status.instance for status in together.by_part()[Part.PRODUCER]] == ["newer"]


def test_a_process_that_died_is_forgotten_even_if_it_told_something_last() -> None:
    bus = MemoryBus("demo")
    statuses = PartStatuses(bus.reader([PARTS]), since_ns=NOW_NS)
    bus.publish(PARTS, make_status(Part.ASSEMBLER, "host-1", created_ns=NOW_NS))
    statuses.update()
    statuses.forget(Part.ASSEMBLER, "host-1")
    bus.publish(PARTS, make_status(Part.ASSEMBLER, "host-1", created_ns=NOW_NS + 1))
    statuses.update()
    assert statuses.newest(Part.ASSEMBLER) is None


def test_a_silent_topic_while_parts_write_their_files_is_a_broker_that_does_not_answer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 100.0
    monkeypatch.setattr("tristream.local.part_statuses.time.monotonic", lambda: now)
    statuses = follow(make_status(Part.LEARNER, started_ns=7, created_ns=NOW_NS))
    words = "the broker at 127.0.0.1:9092 (no answer for 9 s)"
    written = [make_status(Part.LEARNER, waiting_for=words, started_ns=NOW_NS + 9, created_ns=NOW_NS + 9)]
    assert statuses.find_silence(lambda: written) == 0.0
    now += QUIET_SECONDS + 1
    assert statuses.find_silence(lambda: written) == QUIET_SECONDS + 1
    newest = statuses.newest(Part.LEARNER)
    assert newest is not None
    assert (newest.waiting_for, newest.started_ns) == (words, 7)


def test_before_anybody_has_said_a_word_only_a_part_that_waits_for_the_broker_means_that_it_is_away(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 100.0
    monkeypatch.setattr("tristream.local.part_statuses.time.monotonic", lambda: now)
    statuses = follow()
    now += 60.0
    loading = make_status(Part.LEARNER, waiting_for="the model", created_ns=NOW_NS - 60 * SECOND_NS)
    assert statuses.find_silence(lambda: [loading]) == 0.0
    waiting = make_status(Part.PRODUCER, waiting_for="the broker at x (no answer for 9 s)", created_ns=NOW_NS)
    assert statuses.find_silence(lambda: [waiting]) == 60.0

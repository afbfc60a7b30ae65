"""A run has one process of some parts: the first on the log has it, a silent one is replaced, and nobody ages alone."""

import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from faulty_bus import FaultyBus
from statuses import make_status
from tristream.runtime.bus.memory import MemoryBus
from tristream.runtime.bus.protocol import Bus
from tristream.runtime.claims import CLAIM_MEASURE, KNOWN_MEASURE, MOST_EPOCH, is_gone
from tristream.runtime.errors import StoppedError, UserError
from tristream.runtime.lease import Lease, SupersededError
from tristream.runtime.log_clock import LogClock
from tristream.runtime.run_folder import RunFolder
from tristream.runtime.status import PartReporter, instance_name
from tristream.wire.events import DropReason, Fate, Group, Outcome, Part, PartState, PartStatus, Split
from tristream.wire.topics import DEAD_LETTERS, OUTCOMES, PARTS, Topic

BEAT_SECONDS = 0.1
SLOW_BEAT_SECONDS = 1.0
"""Where nothing should be waited for: four beats are the shortest wait."""
TOPICS = (OUTCOMES,)
PID_OF_NOBODY = 2**22 + 1
"""Greater than every process number of Linux."""


def make_reporter(
    folder: Path, instance: str | None = None, part: Part = Part.ASSEMBLER, beat_seconds: float = BEAT_SECONDS
) -> PartReporter:
    return PartReporter(RunFolder(folder), "demo", part, beat_seconds=beat_seconds, instance=instance)


def claim(bus: MemoryBus, reporter: PartReporter, *, above: int = 0) -> Lease:
    return Lease.claim(bus.as_part(reporter.instance), reporter, TOPICS, above=above, stop=threading.Event())


@contextmanager
def held(bus: MemoryBus, reporter: PartReporter) -> Iterator[Lease]:
    lease = claim(bus, reporter)
    try:
        yield lease
    finally:
        lease.close()


def statuses(bus: MemoryBus) -> list[PartStatus]:
    return [record.event for record in bus.reader([PARTS]).read_to_end()]


def newest_status(bus: MemoryBus, instance: str) -> PartStatus:
    return [status for status in statuses(bus) if status.instance == instance][-1]


def wait_until_superseded(lease: Lease) -> SupersededError:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            lease.check()
        except SupersededError as error:
            return error
        time.sleep(0.01)
    pytest.fail("nothing superseded it")


def make_outcome(number: int) -> Outcome:
    group = Group(run="demo", split=Split.TRAIN, number=number, source="words", sample_id="0", size=8)
    return Outcome(group=group, fate=Fate.DROPPED, drop_reason=DropReason.STALE, created_ns=0)


def test_a_part_that_nobody_holds_is_taken_at_once_and_each_epoch_once(tmp_path: Path) -> None:
    bus = MemoryBus("demo")
    started = time.monotonic()
    for number in (1, 2, 3):
        with held(bus, make_reporter(tmp_path, f"host-a-{number}", beat_seconds=SLOW_BEAT_SECONDS)) as lease:
            assert lease.epoch == number
            lease.check()
            assert newest_status(bus, f"host-a-{number}").epoch == number
    assert time.monotonic() - started < 3 * SLOW_BEAT_SECONDS
    assert [status.state for status in statuses(bus)][-1] is PartState.DONE


def test_an_epoch_known_from_elsewhere_is_surpassed(tmp_path: Path) -> None:
    bus = MemoryBus("demo")
    lease = claim(bus, make_reporter(tmp_path, "host-a"), above=7)
    assert lease.epoch == 8
    lease.close()
    lease = claim(bus, make_reporter(tmp_path, "host-b"), above=3)
    assert lease.epoch == 9
    lease.close()


def test_a_second_process_is_refused_in_words_and_does_the_first_no_harm(tmp_path: Path) -> None:
    bus = MemoryBus("demo")
    with held(bus, make_reporter(tmp_path, "host-a")) as lease:
        second = make_reporter(tmp_path, "host-b")
        with pytest.raises(UserError, match="host-a is its assembler already"):
            claim(bus, second)
        time.sleep(10 * BEAT_SECONDS)
        lease.check()
        refused = newest_status(bus, "host-b")
        assert (refused.state, refused.epoch) == (PartState.DONE, 0)
        num_statuses = len([status for status in statuses(bus) if status.instance == "host-b"])
        time.sleep(5 * BEAT_SECONDS)
        assert len([status for status in statuses(bus) if status.instance == "host-b"]) == num_statuses
    with held(bus, make_reporter(tmp_path, "host-c")) as lease:
        assert lease.epoch == 2


def test_processes_of_other_parts_are_no_obstacle(tmp_path: Path) -> None:
    bus = MemoryBus("demo")
    with (
        held(bus, make_reporter(tmp_path, "host-a", Part.DISPATCHER)) as first,
        held(bus, make_reporter(tmp_path, "host-a", Part.ASSEMBLER)) as second,
    ):
        assert (first.epoch, second.epoch) == (1, 1)
        time.sleep(5 * BEAT_SECONDS)
        first.check()
        second.check()


def test_a_silent_holder_is_replaced_and_told_so_and_what_it_still_writes_is_void(tmp_path: Path) -> None:
    bus = MemoryBus("demo")
    zombie_bus, zombie_reporter = bus.as_part("zombie"), make_reporter(tmp_path, "host-a")
    zombie = Lease.claim(zombie_bus, zombie_reporter, TOPICS, stop=threading.Event())
    zombie_bus.publish(OUTCOMES, make_outcome(0))
    zombie_reporter.stop_beating()  # as a frozen process, whose other threads are frozen too
    started = time.monotonic()
    with held(bus, make_reporter(tmp_path, "host-b")) as lease:
        assert 4 * BEAT_SECONDS <= time.monotonic() - started < 60 * BEAT_SECONDS
        assert lease.epoch == 2
        error = wait_until_superseded(zombie)
        assert "host-b has taken over as assembler under epoch 2" in str(error)
        zombie_bus.publish(OUTCOMES, make_outcome(1))
        assert [record.event.group.number for record in bus.reader([OUTCOMES]).read_to_end()] == [0]
        (letter,) = [record.event for record in bus.reader([DEAD_LETTERS]).read_to_end()]
        assert letter.error == "void: written under epoch 1, and epoch 2 has taken over"
        lease.check()
        zombie.close()
        time.sleep(3 * BEAT_SECONDS)
        lease.check()


class FrozenBus:
    """A bus whose readers give nothing while their process is frozen."""

    def __init__(self, inner: Bus) -> None:
        self._inner = inner
        self.is_awake = threading.Event()
        self.is_awake.set()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def reader(self, topics: Sequence[Topic[Any]], **options: Any) -> Any:
        reader: Any = self._inner.reader(topics, **options)
        poll = reader.poll
        reader.poll = lambda seconds: self.is_awake.wait() and poll(seconds)
        return reader


def test_one_that_wakes_up_knows_its_successor_before_it_does_anything(tmp_path: Path) -> None:
    bus, zombie_reporter = MemoryBus("demo"), make_reporter(tmp_path, "host-a")
    frozen = FrozenBus(bus.as_part("zombie"))
    zombie = Lease.claim(frozen, zombie_reporter, TOPICS, stop=threading.Event())
    zombie.check()
    frozen.is_awake.clear()
    zombie_reporter.stop_beating()
    with held(bus, make_reporter(tmp_path, "host-b")):
        threading.Timer(2 * BEAT_SECONDS, frozen.is_awake.set).start()  # the main thread wakes up first
        zombie_reporter.start_beating()
        with pytest.raises(SupersededError, match="host-b has taken over"):
            zombie.check()
        zombie.close()


def test_a_holder_whose_broker_is_away_waits_for_word_once_and_goes_on(tmp_path: Path) -> None:
    bus, reporter = MemoryBus("demo"), make_reporter(tmp_path, "host-a")
    faulty = FaultyBus(bus.as_part("host-a"))
    lease = Lease.claim(faulty, reporter, TOPICS, stop=threading.Event())
    faulty.delay_publishes()
    time.sleep(6 * BEAT_SECONDS)
    started = time.monotonic()
    lease.check()
    assert time.monotonic() - started > 3 * BEAT_SECONDS
    for _ in range(50):
        lease.check()
    assert time.monotonic() - started < 50 * BEAT_SECONDS, "it waits once, and not each time"
    faulty.release_publishes()
    lease.close()


@pytest.mark.parametrize(
    "instance", [instance_name(PID_OF_NOBODY), "host-b"], ids=["a process that is gone", "the same name"]
)
def test_a_crashed_process_of_this_host_is_replaced_at_once(tmp_path: Path, instance: str) -> None:
    bus = MemoryBus("demo")
    bus.publish(PARTS, make_status(Part.ASSEMBLER, instance, epoch=4))
    started = time.monotonic()
    with held(bus, make_reporter(tmp_path, "host-b", beat_seconds=SLOW_BEAT_SECONDS)) as lease:
        assert time.monotonic() - started < 3 * SLOW_BEAT_SECONDS
        assert lease.epoch == 5


def test_a_process_is_known_to_be_gone_only_on_its_own_host(tmp_path: Path) -> None:
    assert is_gone(instance_name(PID_OF_NOBODY))
    assert not is_gone(instance_name(1))
    assert not is_gone(make_reporter(tmp_path).instance)
    assert not is_gone(f"elsewhere-{PID_OF_NOBODY}")
    assert not is_gone("host")


def test_of_many_at_once_one_has_it_and_the_others_are_refused(tmp_path: Path) -> None:
    for _ in range(5):
        bus = MemoryBus("demo")
        barrier = threading.Barrier(4)

        def try_to_claim(
            number: int, bus: MemoryBus = bus, barrier: threading.Barrier = barrier
        ) -> "Lease | UserError":
            reporter = make_reporter(tmp_path, f"host-{'abcd'[number]}")
            barrier.wait()
            try:
                return claim(bus, reporter, above=number)
            except UserError as error:
                return error

        with ThreadPoolExecutor(4) as threads:
            answers = list(threads.map(try_to_claim, range(4)))
        leases = [answer for answer in answers if isinstance(answer, Lease)]
        assert len(leases) == 1, answers
        time.sleep(5 * BEAT_SECONDS)
        leases[0].check()
        leases[0].close()
        assert len({status.instance for status in statuses(bus) if status.epoch}) == 1


def test_every_one_that_may_have_it_must_be_silent(tmp_path: Path) -> None:
    """The log is compacted: which of two claims came first may no longer be seen, so both must be waited for."""
    bus = MemoryBus("demo")
    bus.publish(PARTS, make_status(Part.ASSEMBLER, "silent-a", epoch=3))
    other = make_reporter(tmp_path, "living-b")
    other.connect_to(bus)
    other.hold(3)
    other.start_beating()
    try:
        with pytest.raises(UserError, match="living-b is its assembler"):
            claim(bus, make_reporter(tmp_path, "host-c"))
    finally:
        other.stop_beating()


@pytest.mark.parametrize(
    ("epoch", "measures"), [(3, {}), (0, {CLAIM_MEASURE: 3.0})], ids=["a holder", "a claim without an end"]
)
def test_one_that_went_silent_is_waited_for_and_its_epoch_is_not_given_again(
    tmp_path: Path, epoch: int, measures: dict[str, float]
) -> None:
    bus = MemoryBus("demo")
    bus.publish(PARTS, make_status(Part.ASSEMBLER, "silent-a", epoch=epoch, measures=measures))
    bus.publish(PARTS, make_status(Part.ASSEMBLER, "old-b", epoch=2))
    bus.publish(PARTS, make_status(Part.ASSEMBLER, "done-c", state=PartState.DONE, epoch=1))
    started = time.monotonic()
    with held(bus, make_reporter(tmp_path, "host-d")) as lease:
        assert time.monotonic() - started >= 4 * BEAT_SECONDS
        assert lease.epoch == 4


def test_an_epoch_outlives_the_statuses_of_the_process_that_had_it(tmp_path: Path) -> None:
    """A new process of the same name replaces its predecessor's status when the log is compacted."""
    bus = MemoryBus("demo")
    with held(bus, make_reporter(tmp_path, "host-a")), pytest.raises(UserError):
        claim(bus, make_reporter(tmp_path, "host-b"))
    compacted = MemoryBus("demo")
    compacted.publish(PARTS, newest_status(bus, "host-b"))
    assert newest_status(bus, "host-b").measures[KNOWN_MEASURE] == 1
    with held(compacted, make_reporter(tmp_path, "host-b")) as lease:
        assert lease.epoch == 2


def test_foreign_and_void_statuses_are_left_aside(tmp_path: Path) -> None:
    bus = MemoryBus("demo")
    bus.publish(PARTS, replace(make_status(Part.ASSEMBLER, "x-1", epoch=5), run="another"))
    bus.publish(PARTS, make_status(Part.LEARNER, "x-2", epoch=6))
    bus.publish(PARTS, make_status(Part.ASSEMBLER, "x-3", epoch=MOST_EPOCH + 1))
    bus.publish(PARTS, make_status(Part.ASSEMBLER, "x-4", epoch=-1, measures={CLAIM_MEASURE: float("nan")}))
    bus.publish_raw(PARTS, "assembler/x-5", b"\xff\xff\xff", {"contract": b"2"})
    started = time.monotonic()
    with held(bus, make_reporter(tmp_path, "host-a", beat_seconds=SLOW_BEAT_SECONDS)) as lease:
        assert time.monotonic() - started < 3 * SLOW_BEAT_SECONDS
        assert lease.epoch == 1
        bus.publish(PARTS, make_status(Part.ASSEMBLER, "x-3", epoch=MOST_EPOCH + 1))
        bus.publish(PARTS, make_status(Part.LEARNER, "x-2", epoch=6))
        time.sleep(3 * SLOW_BEAT_SECONDS)
        lease.check()


def test_waiting_for_the_silence_of_another_ends_when_told_to_stop(tmp_path: Path) -> None:
    bus = MemoryBus("demo")
    bus.publish(PARTS, make_status(Part.ASSEMBLER, "silent-a", epoch=1))
    stop = threading.Event()
    threading.Timer(2 * BEAT_SECONDS, stop.set).start()
    with pytest.raises(StoppedError):
        Lease.claim(bus, make_reporter(tmp_path, "host-b"), TOPICS, stop=stop)
    assert newest_status(bus, "host-b").state is PartState.DONE


def test_a_process_whose_main_thread_is_busy_keeps_its_part(tmp_path: Path) -> None:
    bus = MemoryBus("demo")
    with held(bus, make_reporter(tmp_path, "host-a")), ThreadPoolExecutor(1) as thread:
        attempt = thread.submit(claim, bus, make_reporter(tmp_path, "host-b"))
        time.sleep(20 * BEAT_SECONDS)  # a long call into C that lets other threads run
        with pytest.raises(UserError, match="host-a is its assembler"):
            attempt.result()


def test_the_log_flows_for_the_holder_while_its_beats_come_back(tmp_path: Path) -> None:
    bus = MemoryBus("demo")
    reporter = make_reporter(tmp_path, "host-a")
    with held(bus, reporter) as lease:
        before, started = lease.log_seconds, time.monotonic()
        time.sleep(10 * BEAT_SECONDS)
        passed, elapsed = lease.log_seconds - before, time.monotonic() - started
        assert 0.5 * elapsed < passed <= elapsed + 2 * BEAT_SECONDS
        reporter.stop_beating()
        time.sleep(3 * BEAT_SECONDS)
        before = lease.log_seconds
        time.sleep(20 * BEAT_SECONDS)
        assert lease.log_seconds == before
        reporter.start_beating()
        time.sleep(3 * BEAT_SECONDS)
        assert before < lease.log_seconds < before + 6 * BEAT_SECONDS


def test_a_log_that_was_stopped_does_not_age_anybody() -> None:
    now = [0.0]
    clock = LogClock(1.0, monotonic=lambda: now[0])
    for second in range(4):  # flows
        now[0] = float(second)
        clock.take(second * 10**9)
    assert (clock.seconds, clock.num_standstills) == (3.0, 0)
    now[0] = 600.0  # the broker was away, and everything that was held up comes at once
    for second in range(4, 600):
        clock.take(second * 10**9)
    assert (clock.seconds, clock.num_standstills) == (4.0, 1)
    for second in range(601, 604):
        now[0] = float(second)
        clock.take(second * 10**9)
    assert clock.seconds == 4.0 + 3.0
    now[0] = 1200.0  # this process was frozen: it sent nothing
    clock.take(1200 * 10**9)
    assert clock.seconds == 7.0 + 2.0
    now[0] = 1201.0  # somebody sets the clock of the broker back
    clock.take(17)
    assert clock.seconds == 9.0


def test_nobody_was_silent_while_nobody_could_be_heard(tmp_path: Path) -> None:
    """The log stands still in the middle of the watch, for much longer than a silence; the holder lives."""
    bus = MemoryBus("demo")
    bus.publish(PARTS, make_status(Part.ASSEMBLER, "host-a", epoch=1))
    holder, faulty = make_reporter(tmp_path, "host-a"), FaultyBus(bus.as_part("host-b"))
    with ThreadPoolExecutor(1) as thread:
        attempt = thread.submit(Lease.claim, faulty, make_reporter(tmp_path, "host-b"), TOPICS, stop=threading.Event())
        time.sleep(2 * BEAT_SECONDS)
        faulty.delay_publishes()
        time.sleep(15 * BEAT_SECONDS)
        assert not attempt.done()
        faulty.release_publishes()
        time.sleep(2 * BEAT_SECONDS)  # the holder needs a moment longer to reach the broker again
        holder.connect_to(bus)
        holder.hold(1)
        holder.start_beating()
        try:
            with pytest.raises(UserError, match="host-a is its assembler"):
                attempt.result(timeout=60)
        finally:
            holder.stop_beating()


def test_a_stray_status_under_a_great_epoch_ends_nobody_and_one_who_took_over_is_believed(tmp_path: Path) -> None:
    bus = MemoryBus("demo")
    with held(bus, make_reporter(tmp_path, "host-a")) as lease:
        stray = replace(newest_status(bus, "host-a"), instance="stray", started_ns=1)
        for epoch in (2, 999_999, 2**52 + 1, 10**18, -1):
            bus.publish(PARTS, replace(stray, epoch=epoch))
            bus.publish(PARTS, replace(stray, epoch=epoch))  # a record that is repeated is still one status
        time.sleep(5 * BEAT_SECONDS)
        lease.check()
        bus.publish(PARTS, replace(stray, epoch=3, created_ns=stray.created_ns + 1))
        bus.publish(PARTS, replace(stray, epoch=3, created_ns=stray.created_ns + 2))
        assert "stray has taken over" in str(wait_until_superseded(lease))

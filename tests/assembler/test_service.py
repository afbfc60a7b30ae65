"""The assembler at work behind a real gRPC channel: errors are status codes, and nobody waits for who waits."""

import asyncio
import json
import re
import threading
import time
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from assembly import (
    GROUP_SIZE,
    Served,
    TestLease,
    group_events,
    ledger_after,
    make_group,
    make_prompt,
    make_settings,
    outcomes_on,
    publish,
    publish_group,
    served,
)
from tristream.assembler.grpc_server import make_server
from tristream.assembler.main import assemble
from tristream.assembler.service import AssemblyService
from tristream.assembler.shards import BuiltBatch
from tristream.batches.v1 import batch_service_pb2, batch_service_pb2_grpc
from tristream.learner.batch_client import RETRIED
from tristream.runtime.bus.memory import MemoryBus, MemoryReader
from tristream.runtime.bus.protocol import BusError, Record, Tap
from tristream.runtime.claims import CLAIM_MEASURE
from tristream.runtime.errors import UserError
from tristream.runtime.status import PartReporter
from tristream.wire.batches import MAX_MESSAGE_BYTES, Batch, Commit, CommittedStep, NotReady
from tristream.wire.codecs.batches import batch_from_message, commit_to_message
from tristream.wire.codecs.ledgers import ledger_to_message
from tristream.wire.events import DropReason, Fate, Interval, Ledger, Outcome, Part, PartState, PartStatus
from tristream.wire.topics import OUTCOMES, PARTS, Topic

EventT = TypeVar("EventT")

NUM_RANKS = 64
MOST_SECONDS = 0.1


class Rank:
    """One rank's calls."""

    def __init__(self, channel: grpc.Channel) -> None:
        self._stub = batch_service_pb2_grpc.BatchServiceStub(channel)
        self._health = health_pb2_grpc.HealthStub(channel)

    def attach(
        self, ledger: Ledger | None = None, run: str = "test", world_size: int = 1, epoch: int = 0, instance: str = "me"
    ) -> None:
        while not self.attach_once(ledger, run, world_size, epoch, instance).ready:
            pass

    def attach_once(
        self, ledger: Ledger | None = None, run: str = "test", world_size: int = 1, epoch: int = 0, instance: str = "me"
    ) -> batch_service_pb2.AttachResponse:
        message = ledger_to_message(Ledger(step=0) if ledger is None else ledger)
        request = batch_service_pb2.AttachRequest(
            run=run, world_size=world_size, ledger=message, epoch=epoch, instance=instance
        )
        return self._stub.Attach(request, timeout=20)

    def ask(self, step: int, rank: int = 0, epoch: int = 0) -> "grpc.Future[batch_service_pb2.NextBatchResponse]":
        request = batch_service_pb2.NextBatchRequest(step=step, rank=rank, epoch=epoch)
        return self._stub.NextBatch.future(request, timeout=20)

    def next_batch(self, step: int, rank: int = 0, epoch: int = 0) -> Batch | NotReady:
        return batch_from_message(self.ask(step, rank, epoch).result(), step=step, rank=rank)

    def batch(self, step: int, rank: int = 0, epoch: int = 0) -> Batch:
        while not isinstance(batch := self.next_batch(step, rank, epoch), Batch):
            pass
        return batch

    def commit(self, ledger: Ledger, *steps: CommittedStep, epoch: int = 0) -> batch_service_pb2.CommitResponse:
        request = commit_to_message(Commit(ledger=ledger, steps=steps))
        request.epoch = epoch
        return self._stub.Commit(request, timeout=20)

    def check(self) -> None:
        answer = self._health.Check(health_pb2.HealthCheckRequest(), timeout=20)
        assert answer.status == health_pb2.HealthCheckResponse.SERVING


@contextmanager
def rank_of(assembler: Served) -> Iterator[Rank]:
    options = [("grpc.max_receive_message_length", MAX_MESSAGE_BYTES)]
    with grpc.insecure_channel(assembler.address, options=options) as channel:
        yield Rank(channel)


@pytest.fixture
def bus() -> MemoryBus:
    return MemoryBus("test")


@pytest.fixture
def rank(tmp_path: Path, bus: MemoryBus) -> Iterator[Rank]:
    with served(make_settings(tmp_path), bus) as assembler, rank_of(assembler) as rank:
        yield rank


def status_code(call: Callable[[], object]) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.RpcError) as caught:
        call()
    return caught.value.code(), str(caught.value.details())


def test_a_batch_crosses_the_wire_as_it_was_built(rank: Rank, bus: MemoryBus) -> None:
    publish_group(bus, 0)
    publish_group(bus, 1)
    rank.attach()
    first, again = rank.batch(1), rank.batch(1)
    assert first == again
    assert first.trained == (0, 1)
    sampled = first.groups[0].rollouts[0].segments[1]
    assert (sampled.tokens.to_list(), sampled.logprobs.to_list()) == ([4, 5], [-0.5, -0.25])


def test_commit_returns_when_the_outcomes_are_on_the_log(rank: Rank, bus: MemoryBus) -> None:
    publish_group(bus, 0)
    publish_group(bus, 1)
    rank.attach()
    batch = rank.batch(1)
    rank.commit(ledger_after(batch), CommittedStep(step=1, outcomes=batch.outcomes))
    assert [(outcome.fate, outcome.step) for outcome in outcomes_on(bus)] == [(Fate.TRAINED, 1)] * 2


def test_a_rank_that_waits_is_answered_when_the_batch_is_there(rank: Rank, bus: MemoryBus) -> None:
    rank.attach()
    waiting = rank.ask(1)
    time.sleep(0.2)
    assert not waiting.done()
    publish_group(bus, 0)
    publish_group(bus, 1)
    started = time.monotonic()
    assert waiting.result(timeout=60).ready
    assert time.monotonic() - started < 4.0


def test_a_call_that_finds_no_batch_is_told_what_it_waits_for(
    rank: Rank, bus: MemoryBus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tristream.assembler.grpc_server.LONG_POLL_SECONDS", 0.3)
    publish_group(bus, 0)
    rank.attach()
    answer = rank.next_batch(1)
    assert isinstance(answer, NotReady)
    assert answer.waiting_for == "1 of 2 groups"


def test_asking_before_attaching_is_a_failed_precondition(rank: Rank) -> None:
    assert status_code(lambda: rank.next_batch(1))[0] is grpc.StatusCode.FAILED_PRECONDITION
    assert status_code(lambda: rank.commit(Ledger(step=0)))[0] is grpc.StatusCode.FAILED_PRECONDITION


def test_another_run_another_history_and_an_unknown_rank_are_invalid_arguments(rank: Rank, bus: MemoryBus) -> None:
    code, details = status_code(lambda: rank.attach(run="other"))
    assert (code, details) == (grpc.StatusCode.INVALID_ARGUMENT, "this assembler serves run 'test', not 'other'")
    assert status_code(lambda: rank.attach(Ledger(step=-1)))[0] is grpc.StatusCode.INVALID_ARGUMENT
    bus.publish(OUTCOMES, Outcome(group=make_group(7), fate=Fate.TRAINED, step=4, created_ns=1))
    code, details = status_code(rank.attach)
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert "group 7 was trained at step 4" in details
    publish_group(bus, 0, version=4)
    publish_group(bus, 1, version=4)
    rank.attach(Ledger(step=4, settled=(Interval(start=7, end=8),)))
    assert status_code(lambda: rank.next_batch(5, rank=1)) == (
        grpc.StatusCode.INVALID_ARGUMENT,
        "there is no rank 1 among 1",
    )


def measure_seconds(call: Callable[[], object], repeats: int = 15) -> list[float]:
    seconds = []
    for _ in range(repeats):
        started = time.monotonic()
        call()
        seconds.append(time.monotonic() - started)
    return seconds


def assert_quick(seconds: Sequence[float]) -> None:
    """Nearly all of the calls; one or two may meet a busy machine."""
    assert sorted(seconds)[-3] < MOST_SECONDS
    assert max(seconds) < 10 * MOST_SECONDS


def test_while_64_ranks_wait_commit_and_health_answer_within_100_ms(rank: Rank, bus: MemoryBus) -> None:
    rank.attach(world_size=NUM_RANKS)
    waiting = [rank.ask(1, number) for number in range(NUM_RANKS)]
    publish_group(bus, 0)
    time.sleep(0.5)
    trained = Outcome(group=make_group(7), fate=Fate.TRAINED, step=0, created_ns=1)
    commit = CommittedStep(step=0, outcomes=(trained,))
    assert_quick(measure_seconds(lambda: rank.commit(Ledger(step=0), commit)))
    assert_quick(measure_seconds(rank.check))
    assert not any(call.done() for call in waiting)
    publish_group(bus, 1)
    shards = [batch_from_message(call.result(), step=1, rank=number) for number, call in enumerate(waiting)]
    assert sorted(group.group.number for shard in shards if isinstance(shard, Batch) for group in shard.groups) == [
        0,
        1,
    ]


class SlowBus(MemoryBus):
    """A bus whose broker takes its time to acknowledge, and to give the outcomes, once it is told to."""

    is_slow = False

    def flush(self, timeout_seconds: float | None = None) -> None:
        if self.is_slow:
            time.sleep(1.0)

    def reader(self, *args: Any, **options: Any) -> MemoryReader:
        if self.is_slow:
            time.sleep(1.0)
        return super().reader(*args, **options)


@pytest.fixture
def slow_bus() -> SlowBus:
    return SlowBus("test")


def test_while_the_broker_acknowledges_a_commit_others_are_answered(tmp_path: Path, slow_bus: SlowBus) -> None:
    publish_group(slow_bus, 0)
    publish_group(slow_bus, 1)
    with (
        served(make_settings(tmp_path), slow_bus) as assembler,
        rank_of(assembler) as rank,
        ThreadPoolExecutor() as pool,
    ):
        rank.attach()
        batch = rank.batch(1)
        slow_bus.is_slow = True
        commit = pool.submit(rank.commit, Ledger(step=0), CommittedStep(step=1, outcomes=batch.outcomes))
        assert_quick(measure_seconds(lambda: rank.batch(1)))
        assert_quick(measure_seconds(rank.check))
        assert not commit.done()
        commit.result(timeout=60)


def test_while_the_log_is_read_again_health_answers_and_a_rank_that_asks_waits(
    tmp_path: Path, slow_bus: SlowBus
) -> None:
    publish_group(slow_bus, 0)
    publish_group(slow_bus, 1)
    with (
        served(make_settings(tmp_path), slow_bus) as assembler,
        rank_of(assembler) as rank,
        ThreadPoolExecutor() as pool,
    ):
        rank.attach()
        slow_bus.is_slow = True
        attaching = pool.submit(rank.attach, world_size=2)
        time.sleep(0.5)
        asked = rank.ask(1, rank=1)
        assert_quick(measure_seconds(rank.check))
        assert not attaching.done()
        assert not asked.done()
        attaching.result(timeout=60)
        assert asked.result().ready
        slow_bus.is_slow = False
        assert rank.batch(1, rank=1).rank == 1


class BreakableBus(MemoryBus):
    """A bus whose broker is lost on command."""

    lost: frozenset[str] = frozenset()

    def require(self, what: str) -> None:
        if what in self.lost:
            raise BusError(f"cannot {what}")

    def flush(self, timeout_seconds: float | None = None) -> None:
        self.require("flush")

    def publish(self, topic: Topic[EventT], event: EventT) -> "Future[None]":
        self.require("publish")
        return super().publish(topic, event)

    def reader(
        self,
        topics: Sequence[Topic[Any]],
        *,
        group: str | None = None,
        offsets: Mapping[tuple[str, int], int] | None = None,
        tap: Tap | None = None,
        is_patient: bool = False,
    ) -> MemoryReader:
        return BreakableReader(self, topics, group, dict(offsets or {}), tap)


class BreakableReader(MemoryReader):
    """Reads a bus that can be lost."""

    def poll(self, timeout_seconds: float = 0.1, max_records: int = 500) -> Sequence[Record[Any]]:
        assert isinstance(self._bus, BreakableBus)
        self._bus.require("read")
        return super().poll(timeout_seconds, max_records)


@pytest.mark.parametrize("lost", ["flush", "publish", "read"])
def test_a_bus_that_fails_ends_the_assembler_and_tells_who_waits(tmp_path: Path, lost: str) -> None:
    bus = BreakableBus("test")
    with served(make_settings(tmp_path), bus) as assembler, rank_of(assembler) as rank:
        rank.attach()
        waiting = rank.ask(1)
        publish_group(bus, 0)
        publish_group(bus, 1, [1.0] * GROUP_SIZE)
        bus.lost = frozenset([lost])
        if lost == "flush":
            assert status_code(lambda: rank.commit(Ledger(step=0)))[0] is grpc.StatusCode.UNAVAILABLE
        assert status_code(waiting.result)[0] is grpc.StatusCode.UNAVAILABLE
        with pytest.raises(BusError, match=f"cannot {lost}"):
            assembler.ended.result(timeout=60)


def test_drops_are_acknowledged_before_the_batch_that_reports_them_is_answered(tmp_path: Path) -> None:
    bus = BreakableBus("test")
    with served(make_settings(tmp_path), bus) as assembler, rank_of(assembler) as rank:
        rank.attach()
        bus.lost = frozenset(["flush"])
        for number, accuracies in enumerate(([1.0] * GROUP_SIZE, None, None)):
            publish_group(bus, number, accuracies)
        assert status_code(lambda: rank.batch(1)) == (grpc.StatusCode.UNAVAILABLE, "cannot flush")


def test_a_learner_that_waits_to_attach_is_released_when_the_assembler_ends() -> None:
    async def attach_and_end() -> None:
        service = AssemblyService(make_settings(), MemoryBus("test"), TestLease())

        def attach() -> Coroutine[Any, Any, NotReady | None]:
            return service.attach(Ledger(step=0), 1, epoch=0, instance="me", timeout_seconds=5.0)

        attaching = asyncio.create_task(attach())
        await asyncio.sleep(0)
        await service.close()
        for waiting in (attaching, attach(), service.next_batch(1, epoch=0, timeout_seconds=5.0)):
            with pytest.raises(BusError, match="the assembler ends"):
                await waiting

    asyncio.run(attach_and_end())


def test_a_rank_that_no_longer_waits_does_not_get_a_batch_built() -> None:
    async def cancel_a_call() -> None:
        bus = MemoryBus("test")
        service = AssemblyService(make_settings(), bus, TestLease())
        stop = threading.Event()
        running = asyncio.create_task(service.run(stop))
        assert await service.attach(Ledger(step=0), 1, epoch=0, instance="me", timeout_seconds=5.0) is None
        gone = asyncio.create_task(service.next_batch(1, epoch=0, timeout_seconds=5.0))
        await asyncio.sleep(0.1)
        gone.cancel()
        await asyncio.sleep(0)
        publish_group(bus, 0)
        publish_group(bus, 1)
        await asyncio.sleep(0.5)
        assert service.assembly.num_ready == 2
        built = await service.next_batch(1, epoch=0, timeout_seconds=5.0)
        assert isinstance(built, BuiltBatch)
        stop.set()
        await running
        await service.close()

    asyncio.run(cancel_a_call())


def test_it_tells_what_it_does_and_where_it_listens(tmp_path: Path, bus: MemoryBus) -> None:
    for number, accuracies in enumerate(([1.0] * GROUP_SIZE, None)):
        publish_group(bus, number, accuracies)
    wanted = {"is_attached": 1.0, "num_open": 0.0, "num_ready": 1.0, "groups/zero_variance": 1.0}

    def told(status: dict[str, Any]) -> dict[str, float]:
        """Its measures; sources of which no group is open need not be told."""
        return {name: value for name, value in status["measures"].items() if value or not name.startswith("open/")}

    with served(make_settings(tmp_path), bus) as assembler, rank_of(assembler) as rank:
        rank.attach()
        status_file = tmp_path / "test/status/assembler.json"
        deadline = time.monotonic() + 60
        while told(status := json.loads(status_file.read_text())) != wanted:
            assert time.monotonic() < deadline, status
            time.sleep(0.05)
    assert (status["state"], status["address"]) == (PartState.READY, assembler.address)
    assert status["waiting_for"] == "1 of 2 groups"


def test_a_taken_address_is_a_user_error() -> None:
    async def listen_twice() -> None:
        server, address = make_server("127.0.0.1:0")
        with pytest.raises(UserError, match=f"cannot listen on {address}"):
            make_server(address)
        await server.stop(None)

    asyncio.run(listen_twice())


def test_a_second_assembler_on_a_taken_address_takes_nothing_over(tmp_path: Path, bus: MemoryBus) -> None:
    claims: list[TestLease] = []

    def claim() -> TestLease:
        claims.append(TestLease())
        return claims[-1]

    with served(make_settings(tmp_path), bus) as assembler:
        settings = make_settings(tmp_path, address=assembler.address)
        reporter = PartReporter(settings.run.folder, "test", Part.ASSEMBLER)
        with pytest.raises(UserError, match="cannot listen on"):
            asyncio.run(assemble(settings, bus, reporter, threading.Event(), claim))
    assert claims == []


# Epochs ------------------------------------------------------------------------------------------


def test_an_older_learner_is_refused_by_name_whatever_it_asks(rank: Rank, bus: MemoryBus) -> None:
    for number in range(4):
        publish_group(bus, number)
    rank.attach(epoch=3, instance="old")
    old = rank.batch(1, epoch=3)
    rank.attach(epoch=4, instance="new")
    refusal = (grpc.StatusCode.PERMISSION_DENIED, "the learner of epoch 3 is superseded by that of epoch 4 (new)")
    step = CommittedStep(step=1, outcomes=old.outcomes)
    assert status_code(lambda: rank.attach(epoch=3, instance="old")) == refusal
    assert status_code(lambda: rank.next_batch(1, epoch=3)) == refusal
    assert status_code(lambda: rank.commit(ledger_after(old), step, epoch=3)) == refusal
    assert outcomes_on(bus) == []
    assert rank.batch(1, epoch=4) == old


def test_an_older_learner_that_waits_for_a_batch_does_not_get_it(rank: Rank, bus: MemoryBus) -> None:
    rank.attach(epoch=3)
    waiting = rank.ask(1, epoch=3)
    time.sleep(0.2)
    rank.attach(epoch=4)
    publish_group(bus, 0)
    publish_group(bus, 1)
    assert status_code(waiting.result)[0] is grpc.StatusCode.PERMISSION_DENIED


def test_a_learner_that_took_over_is_known_before_it_attaches(rank: Rank, bus: MemoryBus) -> None:
    """Its statuses say so: a new assembler does not take an older learner for the newest."""
    status = PartStatus(
        run="test",
        part=Part.LEARNER,
        instance="new",
        state=PartState.STARTING,
        since_ns=1,
        started_ns=1,
        created_ns=1,
        epoch=4,
    )
    for created_ns in (1, 2):
        bus.publish(PARTS, replace(status, created_ns=created_ns))
    code, details = status_code(lambda: rank.attach(epoch=3))
    assert (code, details) == (
        grpc.StatusCode.PERMISSION_DENIED,
        "the learner of epoch 3 is superseded by that of epoch 4 (new)",
    )
    rank.attach(epoch=4)
    claim = replace(status, instance="newest", epoch=0, measures={CLAIM_MEASURE: 5.0})
    bus.publish(PARTS, claim)
    bus.publish(PARTS, replace(claim, epoch=5, measures={}))
    publish_group(bus, 0)
    publish_group(bus, 1)
    assert status_code(lambda: rank.batch(1, epoch=4))[0] is grpc.StatusCode.PERMISSION_DENIED


def test_a_stray_status_does_not_refuse_the_learner(rank: Rank, bus: MemoryBus) -> None:
    status = PartStatus(
        run="test",
        part=Part.LEARNER,
        instance="stray",
        state=PartState.READY,
        since_ns=1,
        started_ns=1,
        created_ns=1,
        epoch=9,
    )
    bus.publish(PARTS, status)
    bus.publish(PARTS, status)
    for created_ns in (1, 2):
        bus.publish(PARTS, replace(status, run="another", epoch=10, created_ns=created_ns))
        bus.publish(PARTS, replace(status, epoch=10**18, created_ns=created_ns))
    publish_group(bus, 0)
    publish_group(bus, 1)
    rank.attach(epoch=3)
    assert len(rank.batch(1, epoch=3).groups) == 2


def test_answers_carry_the_epoch_of_the_assembler(tmp_path: Path, bus: MemoryBus) -> None:
    publish_group(bus, 0)
    publish_group(bus, 1)
    with served(make_settings(tmp_path), bus, TestLease(epoch=7)) as assembler, rank_of(assembler) as rank:
        rank.attach()
        batch = rank.batch(1)
        commit = rank.commit(ledger_after(batch), CommittedStep(step=1, outcomes=batch.outcomes))
        attached, waiting = rank.attach_once(ledger_after(batch)), rank.ask(2).result()
    assert [attached.assembler_epoch, waiting.assembler_epoch, commit.assembler_epoch] == [7, 7, 7]


def test_a_superseded_assembler_ends_and_tells_who_waits_who_took_over(tmp_path: Path, bus: MemoryBus) -> None:
    lease = TestLease()
    with served(make_settings(tmp_path), bus, lease) as assembler, rank_of(assembler) as rank:
        rank.attach()
        waiting = rank.ask(1)
        time.sleep(0.2)
        lease.successor = "host-2"
        told = (grpc.StatusCode.UNAVAILABLE, "run test: host-2 has taken over; let it work")
        assert status_code(waiting.result) == told
        refused = status_code(lambda: rank.commit(Ledger(step=0)))
        assert refused == told or refused[0] in RETRIED  # the server may have closed by then
        with pytest.raises(UserError, match="host-2 has taken over"):
            assembler.ended.result(timeout=60)


def test_steps_out_of_turn_are_refused_and_change_nothing(rank: Rank, bus: MemoryBus) -> None:
    for number in range(6):
        publish_group(bus, number)
    rank.attach()
    for step in (10**9, 2, 0, -1):
        code, details = status_code(lambda step=step: rank.next_batch(step))  # type: ignore[misc]
        assert code is grpc.StatusCode.OUT_OF_RANGE
        assert "the next one is step 1" in details
    first = rank.batch(1)
    assert first.trained == (0, 1)
    rank.commit(ledger_after(first), CommittedStep(step=1, outcomes=first.outcomes))
    assert status_code(lambda: rank.next_batch(1)) == (
        grpc.StatusCode.OUT_OF_RANGE,
        "step 1 is committed; the next one is step 2",
    )
    assert rank.batch(2).trained == (2, 3)
    assert [outcome.fate for outcome in outcomes_on(bus)] == [Fate.TRAINED] * 2


# Reading the log ---------------------------------------------------------------------------------


class CountingBus(MemoryBus):
    """A bus that counts how often the log is read, and can hold a reader up."""

    num_readers = 0
    is_held_up = False

    def reader(self, *args: Any, **options: Any) -> MemoryReader:
        self.num_readers += 1
        reader = super().reader(*args, **options)
        poll = reader.poll

        def poll_slowly(timeout_seconds: float = 0.1, max_records: int = 500) -> Any:
            if not self.is_held_up:
                return poll(timeout_seconds, max_records)
            time.sleep(0.01)
            return poll(0.0, 1)

        reader.poll = poll_slowly  # type: ignore[method-assign]
        return reader


def test_eight_ranks_that_attach_and_attach_again_cause_one_rebuild(tmp_path: Path) -> None:
    bus = CountingBus("test")
    publish_group(bus, 0)
    publish_group(bus, 1)
    with served(make_settings(tmp_path), bus) as assembler, rank_of(assembler) as rank, ThreadPoolExecutor(8) as pool:
        for _ in range(2):
            attaching = [pool.submit(rank.attach, world_size=8, epoch=1) for _ in range(8)]
            for attached in attaching:
                attached.result(timeout=60)
        assert bus.num_readers == 1
        batch = rank.batch(1, epoch=1)
        rank.commit(ledger_after(batch), CommittedStep(step=1, outcomes=batch.outcomes), epoch=1)
        rank.attach(ledger_after(batch), world_size=8, epoch=2)
        assert bus.num_readers == 1


def test_attach_answers_while_the_log_is_read_and_says_how_far_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tristream.assembler.grpc_server.LONG_POLL_SECONDS", 0.2)
    bus = CountingBus("test")
    for number in range(40):
        publish_group(bus, number)
    bus.is_held_up = True
    with served(make_settings(tmp_path), bus) as assembler, rank_of(assembler) as rank:
        counts: list[int] = []
        while len(set(counts)) < 3:  # of two answers the second may say the same, where little is read between
            answer = rank.attach_once()
            assert not answer.ready
            words = re.fullmatch(r"reading the log: (\d+) records", answer.waiting_for)
            assert words is not None, answer.waiting_for
            counts.append(int(words[1]))
        assert counts == sorted(counts)
        waiting = rank.next_batch(1)
        assert isinstance(waiting, NotReady)
        assert waiting.waiting_for.startswith("reading the log: ")
        assert_quick(measure_seconds(rank.check))
        bus.is_held_up = False
        rank.attach()
        assert rank.batch(1).trained == (0, 1)


def test_a_ledger_of_another_history_is_refused_and_another_one_is_taken(rank: Rank, bus: MemoryBus) -> None:
    bus.publish(OUTCOMES, Outcome(group=make_group(7), fate=Fate.TRAINED, step=4, created_ns=1))
    for _ in range(3):
        code, details = status_code(rank.attach)
        assert code is grpc.StatusCode.INVALID_ARGUMENT
        assert "group 7 was trained at step 4" in details
    assert status_code(lambda: rank.next_batch(1))[0] is grpc.StatusCode.FAILED_PRECONDITION
    rank.attach(Ledger(step=4, settled=(Interval(start=7, end=8),)))
    assert isinstance(rank.next_batch(5), NotReady)


def wait_for_outcomes(bus: MemoryBus, count: int) -> list[Outcome]:
    deadline = time.monotonic() + 60
    while len(found := outcomes_on(bus)) < count:
        assert time.monotonic() < deadline, found
        time.sleep(0.02)
    return found


def test_a_dispatched_group_of_which_nothing_comes_gets_its_outcome(tmp_path: Path, bus: MemoryBus) -> None:
    lease = TestLease()
    settings = make_settings(tmp_path, generation_timeout_seconds=60.0)
    with served(settings, bus, lease) as assembler, rank_of(assembler) as rank:
        rank.attach()
        publish(bus, make_prompt(make_group(0)))
        time.sleep(0.5)
        assert outcomes_on(bus) == []
        lease.log_seconds = 61.0
        (outcome,) = wait_for_outcomes(bus, 1)
    assert (outcome.group.number, outcome.drop_reason) == (0, DropReason.INCOMPLETE)


class FreezingBus(MemoryBus):
    """A bus whose reader does not poll while the process is frozen, and gives what comes then a few records a time."""

    is_frozen = False

    def reader(self, *args: Any, **options: Any) -> MemoryReader:
        reader = super().reader(*args, **options)
        poll = reader.poll

        def poll_frozen(timeout_seconds: float = 0.1, max_records: int = 500) -> Any:
            while self.is_frozen:
                time.sleep(0.01)
            return poll(timeout_seconds, min(max_records, 5))

        reader.poll = poll_frozen  # type: ignore[method-assign]
        return reader


def test_an_assembler_that_was_frozen_gives_up_nothing_that_is_complete_on_the_log(tmp_path: Path) -> None:
    bus, lease = FreezingBus("test"), TestLease()
    settings = make_settings(
        tmp_path, groups_per_step=60, max_staleness=9, generation_timeout_seconds=60.0, scoring_timeout_seconds=30.0
    )
    with served(settings, bus, lease) as assembler, rank_of(assembler) as rank:
        rank.attach()
        for number in range(61):
            publish(bus, *group_events(number)[:2])  # its prompt and its first rollout
        time.sleep(0.5)
        bus.is_frozen = True
        time.sleep(0.2)
        for number in range(60):
            publish(bus, *group_events(number)[2:])
        lease.log_seconds = 100.0
        bus.is_frozen = False
        assert rank.batch(1).trained == tuple(range(60))
        (outcome,) = wait_for_outcomes(bus, 1)
    assert (outcome.group.number, outcome.drop_reason) == (60, DropReason.INCOMPLETE)


def test_an_assembler_that_fell_behind_reads_up_before_it_builds(tmp_path: Path) -> None:
    """Else it would take what one partition gives, and pass over the groups of the others until they are stale."""
    bus = FreezingBus("test")
    with served(make_settings(tmp_path, groups_per_step=8), bus) as assembler, rank_of(assembler) as rank:
        rank.attach()
        asked = rank.ask(1)
        time.sleep(0.3)
        bus.is_frozen = True
        time.sleep(0.2)
        for number in range(64):
            publish_group(bus, number)
        time.sleep(1.2)
        bus.is_frozen = False
        batch = batch_from_message(asked.result(), step=1, rank=0)
        assert isinstance(batch, Batch)
        assert batch.trained == tuple(range(8))

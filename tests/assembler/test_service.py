"""The assembler at work behind a real gRPC channel: errors are status codes, and nobody waits for who waits."""

import asyncio
import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from assembly import GROUP_SIZE, Served, ledger_after, make_group, make_settings, outcomes_on, publish_group, served
from tristream.assembler.grpc_server import serve_batches
from tristream.assembler.service import AssemblyService
from tristream.assembler.shards import BuiltBatch
from tristream.batches.v1 import batch_service_pb2, batch_service_pb2_grpc
from tristream.runtime.bus.memory import MemoryBus, MemoryReader
from tristream.runtime.bus.protocol import BusError, Record
from tristream.runtime.errors import UserError
from tristream.wire.batches import MAX_MESSAGE_BYTES, Batch, Commit, CommittedStep, NotReady
from tristream.wire.codecs.batches import batch_from_message, commit_to_message, ledger_to_message
from tristream.wire.events import Fate, Interval, Outcome, PartState, Rollout
from tristream.wire.ledger import Ledger
from tristream.wire.topics import OUTCOMES, Topic

EventT = TypeVar("EventT")

NUM_RANKS = 64
MOST_SECONDS = 0.1


class Rank:
    """One rank's calls."""

    def __init__(self, channel: grpc.Channel) -> None:
        self._stub = batch_service_pb2_grpc.BatchServiceStub(channel)
        self._health = health_pb2_grpc.HealthStub(channel)

    def attach(self, ledger: Ledger | None = None, run: str = "test", world_size: int = 1) -> None:
        ledger = Ledger(step=0) if ledger is None else ledger
        request = batch_service_pb2.AttachRequest(run=run, world_size=world_size, ledger=ledger_to_message(ledger))
        self._stub.Attach(request, timeout=20)

    def ask(self, step: int, rank: int = 0) -> "grpc.Future[batch_service_pb2.NextBatchResponse]":
        return self._stub.NextBatch.future(batch_service_pb2.NextBatchRequest(step=step, rank=rank), timeout=20)

    def next_batch(self, step: int, rank: int = 0) -> Batch | NotReady:
        return batch_from_message(self.ask(step, rank).result(), step=step, rank=rank)

    def batch(self, step: int, rank: int = 0) -> Batch:
        while not isinstance(batch := self.next_batch(step, rank), Batch):
            pass
        return batch

    def commit(self, ledger: Ledger, *steps: CommittedStep) -> None:
        self._stub.Commit(commit_to_message(Commit(ledger=ledger, steps=steps)), timeout=20)

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
    assert waiting.result(timeout=4.0).ready
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
    trained = Outcome(group=make_group(7), fate=Fate.TRAINED, step=1, created_ns=1)
    commit = CommittedStep(step=1, outcomes=(trained,))
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

    def flush(self, timeout_seconds: float = 60.0) -> None:
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
        commit.result(timeout=20.0)


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
        attaching.result(timeout=20.0)
        slow_bus.is_slow = False
        assert rank.batch(1, rank=1).rank == 1


class BreakableBus(MemoryBus):
    """A bus whose broker is lost on command."""

    lost: frozenset[str] = frozenset()

    def require(self, what: str) -> None:
        if what in self.lost:
            raise BusError(f"cannot {what}")

    def flush(self, timeout_seconds: float = 60.0) -> None:
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
    ) -> MemoryReader:
        return BreakableReader(self, topics, group, dict(offsets or {}))


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
            assembler.ended.result(timeout=20.0)


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
        service = AssemblyService(make_settings(), MemoryBus("test"))
        attaching = asyncio.create_task(service.attach(Ledger(step=0), 1))
        await asyncio.sleep(0)
        await service.close()
        for waiting in (attaching, service.attach(Ledger(step=0), 1), service.next_batch(1, 5.0)):
            with pytest.raises(BusError, match="the assembler ends"):
                await waiting

    asyncio.run(attach_and_end())


def test_a_rank_that_no_longer_waits_does_not_get_a_batch_built() -> None:
    async def cancel_a_call() -> None:
        bus = MemoryBus("test")
        service = AssemblyService(make_settings(), bus)
        stop = threading.Event()
        running = asyncio.create_task(service.run(stop))
        await service.attach(Ledger(step=0), 1)
        gone = asyncio.create_task(service.next_batch(2, 5.0))
        await asyncio.sleep(0.1)
        gone.cancel()
        await asyncio.sleep(0)
        publish_group(bus, 0)
        publish_group(bus, 1)
        await asyncio.sleep(0.5)
        assert service.assembly.num_ready == 2
        built = await service.next_batch(1, 5.0)
        assert isinstance(built, BuiltBatch)
        stop.set()
        await running
        await service.close()

    asyncio.run(cancel_a_call())


def test_it_tells_what_it_does_and_where_it_listens(tmp_path: Path, bus: MemoryBus) -> None:
    for number, accuracies in enumerate(([1.0] * GROUP_SIZE, None)):
        publish_group(bus, number, accuracies)
    wanted = {"is_attached": 1.0, "num_open": 0.0, "num_ready": 1.0, "groups/zero_variance": 1.0}
    with served(make_settings(tmp_path), bus) as assembler, rank_of(assembler) as rank:
        rank.attach()
        status_file = tmp_path / "test/status/assembler.json"
        deadline = time.monotonic() + 20.0
        while (status := json.loads(status_file.read_text()))["measures"] != wanted:
            assert time.monotonic() < deadline, status
            time.sleep(0.05)
    assert (status["state"], status["address"]) == (PartState.READY, assembler.address)
    assert status["waiting_for"] == "1 of 2 groups"


def test_a_taken_address_is_a_user_error() -> None:
    async def serve_twice() -> None:
        service = AssemblyService(make_settings(), MemoryBus("test"))
        server, address = await serve_batches(service, make_settings())
        with pytest.raises(UserError, match=f"cannot listen on {address}"):
            await serve_batches(service, make_settings(address=address))
        await server.stop(None)

    asyncio.run(serve_twice())


class FrozenBus(MemoryBus):
    """A bus whose reader gives nothing for a while, as if the process had been frozen."""

    def reader(self, *args: Any, **options: Any) -> MemoryReader:
        reader = super().reader(*args, **options)
        poll = reader.poll

        def poll_late(timeout_seconds: float = 0.1, max_records: int = 500) -> Any:
            records = poll(timeout_seconds, max_records=1)
            time.sleep(0.5 if records and isinstance(records[0].event, Rollout) else 0.0)
            return [*records, *poll(0.0, max_records)] if records else records

        reader.poll = poll_late  # type: ignore[method-assign]
        return reader


def test_what_is_on_the_log_is_joined_before_a_group_is_given_up(tmp_path: Path) -> None:
    bus = FrozenBus("test", num_partitions=1)
    with served(make_settings(tmp_path, join_timeout_seconds=0.3), bus) as assembler, rank_of(assembler) as rank:
        publish_group(bus, 0)
        publish_group(bus, 1)
        rank.attach()
        assert {group.group.number for group in rank.batch(1).groups} == {0, 1}

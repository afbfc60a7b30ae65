"""Assemblers and learners that die, freeze, wake up and are taken over, on a bus that repeats and mixes records."""

import asyncio
import random
import threading
import time
from collections import defaultdict
from dataclasses import replace

import pytest

from assembly import (
    TestLease,
    group_events,
    ledger_after,
    make_prompt,
    make_settings,
    outcomes_on,
    publish,
    publish_group,
)
from faulty_bus import FaultyBus
from tristream.assembler.errors import NotAttachedError, SupersededLearnerError
from tristream.assembler.service import AssemblyService
from tristream.assembler.shards import BuiltBatch
from tristream.runtime.bus.memory import MemoryBus
from tristream.wire.batches import Commit, CommittedStep
from tristream.wire.events import DropReason, Fate, Ledger
from tristream.wire.topics import OUTCOMES

NUM_GROUPS = 24
NUM_ACTIONS = 40
EQUAL = [1.0, 1.0, 1.0, 1.0]


class Assembler:
    """An assembler at work in this event loop, under the next epoch."""

    def __init__(self, log: MemoryBus, epoch: int, seed: int) -> None:
        bus = log.as_part(f"assembler-{epoch}")
        bus.take_over([OUTCOMES], epoch)
        self.lease = TestLease(epoch)
        self._bus = FaultyBus(bus, seed)
        self._bus.reorders, self._bus.repeat_probability = True, 0.2
        self.service = AssemblyService(
            make_settings(groups_per_step=2, max_staleness=99, generation_timeout_seconds=60.0), self._bus, self.lease
        )
        self._stop = threading.Event()
        self._running = asyncio.create_task(self.service.run(self._stop))

    async def end(self) -> None:
        self._stop.set()
        await self._running
        await self.service.close()


class Learner:
    """A learner whose epoch counts its lives; it trains nothing."""

    def __init__(self) -> None:
        self.epoch = 1
        self.ledger = self.durable = Ledger(step=0)
        self.pending: list[CommittedStep] = []
        self.trained: dict[int, int] = {}
        """Step by group number."""

    async def step(self, assembler: Assembler, timeout_seconds: float = 0.05) -> bool:
        step = self.ledger.step + 1
        try:
            batch = await assembler.service.next_batch(step, epoch=self.epoch, timeout_seconds=timeout_seconds)
        except NotAttachedError:
            await self.attach(assembler)
            return True
        if not isinstance(batch, BuiltBatch):
            return False
        numbers = [outcome.group.number for outcome in batch.outcomes]
        assert not {*numbers, *batch.dropped} & set(self.settled())
        self.ledger = ledger_after(batch, start=self.ledger)
        self.trained |= dict.fromkeys(numbers, step)
        self.pending.append(CommittedStep(step=step, outcomes=batch.outcomes))
        return True

    def settled(self) -> list[int]:
        return [number for one in self.ledger.settled for number in range(one.start, one.end)]

    async def attach(self, assembler: Assembler) -> None:
        standing = {"epoch": self.epoch, "instance": f"learner-{self.epoch}", "timeout_seconds": 5.0}
        assert await assembler.service.attach(self.ledger, 1, **standing) is None  # type: ignore[arg-type]

    async def checkpoint(self, assembler: Assembler) -> None:
        self.durable = self.ledger
        try:
            commit = Commit(ledger=self.ledger, steps=tuple(self.pending))
            await assembler.service.commit(commit, epoch=self.epoch)
        except NotAttachedError:
            return  # told again with the next one
        self.pending = []

    async def die(self, assembler: Assembler) -> None:
        self.epoch += 1
        self.ledger = self.durable
        self.pending = [step for step in self.pending if step.step <= self.ledger.step]
        self.trained = {number: step for number, step in self.trained.items() if step <= self.ledger.step}
        await self.attach(assembler)
        with pytest.raises(SupersededLearnerError):
            await assembler.service.next_batch(1, epoch=self.epoch - 1, timeout_seconds=0.0)


async def live(seed: int) -> None:
    dice = random.Random(seed)
    log, learner = MemoryBus("test", num_partitions=3), Learner()
    made = [group_events(number, EQUAL if number % 4 == 0 else None) for number in range(NUM_GROUPS)]
    unpublished = [event for events in made for event in (events[:-1] if dice.random() < 0.2 else events)]
    assemblers = [Assembler(log, 1, seed)]
    for _ in range(NUM_ACTIONS):
        action = dice.choice(["publish", "publish", "step", "step", "checkpoint", "learner", "assembler", "zombie"])
        current = assemblers[-1]
        if action == "publish":
            taken = unpublished[: dice.randint(1, 40)]
            del unpublished[: len(taken)]
            publish(log, *taken, *dice.sample(taken, len(taken) // 4))
        elif action == "step":
            await learner.step(current)
        elif action == "checkpoint":
            await learner.checkpoint(current)
        elif action == "learner":
            await learner.die(current)
        elif action == "assembler":
            await current.end()
            assemblers[-1:] = [Assembler(log, len(assemblers) + current.lease.epoch, seed)]
        else:  # it wakes up later than its successor, takes every open group for overdue, and sees no epoch but its own
            current.lease.log_seconds += 10_000.0
            assemblers.append(Assembler(log, len(assemblers) + current.lease.epoch, seed))
    publish(log, *unpublished)
    last = assemblers[-1]
    while await learner.step(last, 0.5):
        pass
    last.lease.log_seconds += 10_000.0
    while await learner.step(last, 1.0):
        pass
    await learner.checkpoint(last)
    for assembler in assemblers:
        await assembler.end()
    check_outcomes(log, learner)


def check_outcomes(log: MemoryBus, learner: Learner) -> None:
    """Each group has one fate on the log, and those that are trained are the learner's."""
    fates = defaultdict(set)
    for outcome in outcomes_on(log):
        fates[outcome.group.number].add((outcome.fate, outcome.step, outcome.drop_reason))
    assert all(len(found) == 1 for found in fates.values()), fates
    trained = {number: step for number, found in fates.items() for fate, step, _ in found if fate is Fate.TRAINED}
    assert trained == learner.trained
    num_left = NUM_GROUPS - len(fates)
    assert 0 <= num_left < 2  # not enough for a batch


@pytest.mark.parametrize("seed", range(8))
def test_whatever_dies_freezes_and_wakes_up_each_group_has_one_fate(seed: int) -> None:
    asyncio.run(live(seed))


def test_what_a_superseded_assembler_gives_up_is_void_for_everybody() -> None:
    async def take_over() -> None:
        log = MemoryBus("test")
        publish(log, make_prompt(group_events(0)[0].group))
        frozen, learner = Assembler(log, 1, 0), Learner()
        await learner.attach(frozen)
        successor = Assembler(log, 2, 0)
        await learner.attach(successor)
        frozen.lease.log_seconds = 100.0
        deadline = time.monotonic() + 60
        while not frozen.service.assembly.counts[DropReason.INCOMPLETE]:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.02)
        assert outcomes_on(log) == []
        publish_group(log, 0)
        publish_group(log, 1)
        while not await learner.step(successor, 1.0):
            assert time.monotonic() < deadline
        restarted = Assembler(log, 3, 0)
        learner.ledger = replace(Ledger(step=0))
        await learner.attach(restarted)
        assert await learner.step(restarted, 5.0)
        for assembler in (frozen, successor, restarted):
            await assembler.end()

    asyncio.run(take_over())

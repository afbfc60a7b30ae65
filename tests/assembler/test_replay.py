"""A replay gives what live gave: groups are taken by number, however the log is partitioned and read."""

import random
from collections.abc import Iterator

import pytest

from assembly import LOG_ID, Log, group_events, ledger_after, make_settings, numbers
from tristream.assembler.assembly import Assembly
from tristream.assembler.shards import BuiltBatch
from tristream.wire.events import DropReason, Ledger, Outcome

NUM_STEPS = 5
EQUAL, MIXED = [1.0, 1.0, 1.0, 1.0], [1.0, 0.0, 0.0, 1.0]


def live_run(num_partitions: int, groups_per_step: int, max_staleness: int) -> tuple[Log, list[BuiltBatch]]:
    """A whole run as it was: each group is dispatched as soon as it may be, and every fifth one teaches nothing."""
    settings = make_settings(groups_per_step=groups_per_step, max_staleness=max_staleness)
    log = Log(settings, num_partitions=num_partitions)
    log.attach()
    ledger, number = Ledger(step=0), 0
    batches: list[BuiltBatch] = []
    for version in range(NUM_STEPS):
        while number - len(log.outcomes) < (max_staleness + version + 1) * groups_per_step:
            log.publish(*group_events(number, EQUAL if number % 5 == 0 else MIXED, version))
            number += 1
            log.read()
        batches.append(log.batch(version + 1))
        ledger = ledger_after(batches[-1], start=ledger)
    return log, batches


def shuffled_by_partition(log: Log, dice: random.Random) -> Iterator[int]:
    """Indices of the log's records: each partition in order, one after the other, in any order of the partitions."""
    partitions: dict[tuple[str, int], list[int]] = {}
    for index, (_, (topic, partition, _)) in enumerate(log.records):
        partitions.setdefault((topic, partition), []).append(index)
    order = list(partitions.values())
    dice.shuffle(order)
    return (index for of_partition in order for index in of_partition)


def replay(
    log: Log, groups_per_step: int, max_staleness: int, dice: random.Random
) -> tuple[list[BuiltBatch], list[Outcome]]:
    assembly = Assembly(make_settings(groups_per_step=groups_per_step, max_staleness=max_staleness))
    assembly.attach(Ledger(step=0), 1, LOG_ID)
    for index in shuffled_by_partition(log, dice):
        fact, position = log.records[index]
        assert assembly.observe(fact, position, now_seconds=0.0, now_ns=1) is None
    outcomes, batches = assembly.finish_reading(), []
    for step in range(1, NUM_STEPS + 1):
        batch, stale = assembly.next_batch(step, now_ns=step)
        assert isinstance(batch, BuiltBatch)
        batches.append(batch)
        outcomes += stale
    return batches, outcomes


@pytest.mark.parametrize("num_partitions", [1, 4, 16])
@pytest.mark.parametrize("groups_per_step", [16, 64, 256])
@pytest.mark.parametrize("max_staleness", [0, 1, 4])
def test_a_full_replay_drops_nothing_and_gives_the_batches_of_the_live_run_in_any_order(
    num_partitions: int, groups_per_step: int, max_staleness: int
) -> None:
    log, live = live_run(num_partitions, groups_per_step, max_staleness)
    assert {outcome.drop_reason for outcome in log.outcomes} == {DropReason.ZERO_VARIANCE}
    for seed in range(2):
        batches, outcomes = replay(log, groups_per_step, max_staleness, random.Random(seed))
        assert outcomes == []
        assert [numbers(batch) for batch in batches] == [numbers(batch) for batch in live]
        assert [batch.groups for batch in batches] == [batch.groups for batch in live]

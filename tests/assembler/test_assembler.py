"""The assembler on the in-memory bus: joins in any order, accounts for every group, serves the same batch again."""

import random
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from assembly import (
    GROUP_SIZE,
    ledger_after,
    make_group,
    make_reward,
    make_rollout,
    make_settings,
    next_batch,
    outcomes,
    publish_group,
    running,
)
from tristream.assembler.assembler import Assembler, LedgerMismatchError, NotAttachedError
from tristream.runtime.bus.memory import MemoryBus
from tristream.runtime.bus.protocol import BusError
from tristream.wire.batches import CommittedStep, NotReady
from tristream.wire.events import Fate, Outcome, Reward, Rollout, Split, Status
from tristream.wire.ledger import Ledger
from tristream.wire.topics import OUTCOMES, REWARDS, ROLLOUTS


def test_records_in_any_order_and_twice_make_the_same_batch(tmp_path: Path) -> None:
    group_events: list[Rollout | Reward] = []
    for number in range(2):
        for index in range(GROUP_SIZE):
            group_events.append(make_rollout(make_group(number), index))
            group_events.append(make_reward(make_group(number), index, float(index % 2)))
    batches = []
    for seed in range(5):
        bus = MemoryBus("test")
        shuffled = group_events * 2
        random.Random(seed).shuffle(shuffled)
        for event in shuffled:
            bus.publish(ROLLOUTS, event) if isinstance(event, Rollout) else bus.publish(REWARDS, event)
        with running(Assembler(make_settings(tmp_path), bus)) as assembler:
            assembler.attach(Ledger(step=0), world_size=1)
            batches.append(next_batch(assembler, 1))
    assert all(batch.groups == batches[0].groups for batch in batches)
    assert batches[0].trained == (0, 1)
    assert batches[0].num_global_tokens == 2 * GROUP_SIZE * 2
    assert [rollout.advantage > 0 for rollout in batches[0].groups[0].rollouts] == [False, True, False, True]


def test_asked_again_it_gives_the_same_batch_even_after_the_learner_restarted(tmp_path: Path) -> None:
    bus = MemoryBus("test")
    for number in range(6):
        publish_group(bus, number, version=1)
    with running(Assembler(make_settings(tmp_path), bus)) as assembler:
        assembler.attach(Ledger(step=0), world_size=1)
        first, second = next_batch(assembler, 1), next_batch(assembler, 2)
        assembler.attach(Ledger(step=0), world_size=1)
        assert next_batch(assembler, 1) == first
        assert next_batch(assembler, 2) == second
        assert set(next_batch(assembler, 3).trained).isdisjoint((*first.trained, *second.trained))


def test_a_new_assembler_serves_only_what_the_learner_has_not_trained(tmp_path: Path) -> None:
    bus = MemoryBus("test")
    for number in range(6):
        publish_group(bus, number)
    settings = make_settings(tmp_path)
    with running(Assembler(settings, bus)) as assembler:
        assembler.attach(Ledger(step=0), world_size=1)
        first = next_batch(assembler, 1)
    with running(Assembler(settings, bus)) as restarted:
        restarted.attach(ledger_after(first), world_size=1)
        assert next_batch(restarted, 2).trained == (2, 3)


def test_equal_rewards_are_dropped_and_reported_to_the_next_batch(tmp_path: Path) -> None:
    bus = MemoryBus("test")
    publish_group(bus, 0, [1.0, 1.0, 1.0, 1.0])
    publish_group(bus, 1)
    publish_group(bus, 2)
    with running(Assembler(make_settings(tmp_path), bus)) as assembler:
        assembler.attach(Ledger(step=0), world_size=1)
        batch = next_batch(assembler, 1)
    assert batch.trained == (1, 2)
    assert batch.dropped == (0,)
    assert [(outcome.fate, outcome.reason) for outcome in outcomes(bus)] == [(Fate.DROPPED, "zero_variance")]


def test_a_drop_that_no_batch_reported_survives_a_restart(tmp_path: Path) -> None:
    bus = MemoryBus("test")
    publish_group(bus, 0, [0.0, 0.0, 0.0, 0.0])
    settings = make_settings(tmp_path)
    with running(Assembler(settings, bus)) as assembler:
        assembler.attach(Ledger(step=0), world_size=1)
        assert isinstance(assembler.next_batch(1, 0, timeout_seconds=0.5), NotReady)
    publish_group(bus, 1)
    publish_group(bus, 2)
    with running(Assembler(settings, bus)) as restarted:
        restarted.attach(Ledger(step=0), world_size=1)
        assert next_batch(restarted, 1).dropped == (0,)
    assert len(outcomes(bus)) == 1


def test_groups_older_than_the_bound_are_dropped_as_stale(tmp_path: Path) -> None:
    bus = MemoryBus("test")
    publish_group(bus, 0, version=0)
    publish_group(bus, 1, version=1)
    publish_group(bus, 2, version=2)
    with running(Assembler(make_settings(tmp_path), bus)) as assembler:
        assembler.attach(Ledger(step=2), world_size=1)
        batch = next_batch(assembler, 3)
    assert batch.trained == (1, 2)
    assert [rollout.age for group in batch.groups for rollout in group.rollouts] == [1] * 4 + [0] * 4
    assert [outcome.reason for outcome in outcomes(bus)] == ["stale"]


def test_a_failed_score_leaves_the_rollout_out_and_never_counts_as_zero(tmp_path: Path) -> None:
    bus = MemoryBus("test")
    group = make_group(0)
    for index, status in enumerate([Status.SCORED, Status.SCORED, Status.TIMEOUT, Status.ERROR]):
        bus.publish(ROLLOUTS, make_rollout(group, index))
        bus.publish(REWARDS, make_reward(group, index, float(index), status))
    publish_group(bus, 1)
    with running(Assembler(make_settings(tmp_path), bus)) as assembler:
        assembler.attach(Ledger(step=0), world_size=1)
        batch = next_batch(assembler, 1)
    assert [rollout.index for rollout in batch.groups[0].rollouts] == [0, 1]
    assert [outcome.valid for outcome in batch.groups[0].outcomes] == [True, True, False, False]


def test_a_group_with_one_valid_rollout_is_dropped(tmp_path: Path) -> None:
    bus = MemoryBus("test")
    for index in range(GROUP_SIZE):
        status = Status.SCORED if index == 0 else Status.UNSCORABLE
        bus.publish(ROLLOUTS, make_rollout(make_group(0), index))
        bus.publish(REWARDS, make_reward(make_group(0), index, 1.0, status))
    with running(Assembler(make_settings(tmp_path), bus)) as assembler:
        assembler.attach(Ledger(step=0), world_size=1)
        assembler.next_batch(1, 0, timeout_seconds=0.5)
    assert [outcome.reason for outcome in outcomes(bus)] == ["too_few_valid"]


def test_a_group_that_never_completes_is_dropped_and_says_what_was_missing(tmp_path: Path) -> None:
    bus = MemoryBus("test")
    bus.publish(ROLLOUTS, make_rollout(make_group(0), 0))
    with running(Assembler(make_settings(tmp_path, join_timeout_seconds=0.5), bus)) as assembler:
        assembler.attach(Ledger(step=0), world_size=1)
        waiting = assembler.next_batch(1, 0, timeout_seconds=0.3)
        assert isinstance(waiting, NotReady)
        assert "1 math, 3 rollouts" in waiting.waiting_for
        assembler.next_batch(1, 0, timeout_seconds=0.6)
    assert [outcome.reason for outcome in outcomes(bus)] == ["incomplete"]


def test_commit_publishes_outcomes_and_forgets_the_batch(tmp_path: Path) -> None:
    bus = MemoryBus("test")
    publish_group(bus, 0)
    publish_group(bus, 1)
    with running(Assembler(make_settings(tmp_path), bus)) as assembler:
        assembler.attach(Ledger(step=0), world_size=1)
        batch = next_batch(assembler, 1)
        trained = tuple(
            Outcome(group=group.group, fate=Fate.TRAINED, step=1, rollouts=group.outcomes, created_ns=1)
            for group in batch.groups
        )
        assembler.commit((CommittedStep(step=1, outcomes=trained),), ledger_after(batch))
    assert [(outcome.group.number, outcome.fate) for outcome in outcomes(bus)] == [
        (0, Fate.TRAINED),
        (1, Fate.TRAINED),
    ]


def test_a_log_with_groups_that_the_checkpoint_does_not_know_is_refused(tmp_path: Path) -> None:
    bus = MemoryBus("test")
    bus.publish(OUTCOMES, Outcome(group=make_group(0), fate=Fate.TRAINED, step=4, created_ns=1))
    with (
        running(Assembler(make_settings(tmp_path), bus)) as assembler,
        pytest.raises(LedgerMismatchError, match="group 0 was trained at step 4"),
    ):
        assembler.attach(Ledger(step=0), world_size=1)


def test_nothing_is_served_before_a_learner_attaches(tmp_path: Path) -> None:
    assembler = Assembler(make_settings(tmp_path), MemoryBus("test"))
    with pytest.raises(NotAttachedError):
        assembler.next_batch(1, 0, timeout_seconds=0.0)


class BrokenBus(MemoryBus):
    """A bus whose broker does not acknowledge."""

    def flush(self, timeout_seconds: float = 60.0) -> None:
        raise BusError("not acknowledged")


def test_a_bus_that_fails_a_request_of_the_learner_ends_the_assembler(tmp_path: Path) -> None:
    bus = BrokenBus("test")
    publish_group(bus, 0)
    publish_group(bus, 1)
    assembler = Assembler(make_settings(tmp_path), bus)
    with running(assembler):
        assembler.attach(Ledger(step=0), world_size=1)
        while assembler.num_ready < 2:
            time.sleep(0.01)
    with pytest.raises(BusError, match="not acknowledged"):
        assembler.next_batch(1, 0, timeout_seconds=1.0)
    with pytest.raises(BusError, match="not acknowledged"):
        assembler.work()


def test_a_learner_that_waits_to_attach_is_released_when_the_assembler_ends(tmp_path: Path) -> None:
    assembler = Assembler(make_settings(tmp_path), MemoryBus("test"))
    with ThreadPoolExecutor(1) as pool:
        attaching = pool.submit(assembler.attach, Ledger(step=0), 1)
        assembler.close()
        with pytest.raises(BusError, match="the assembler ends"):
            attaching.result(timeout=5.0)


def test_evaluation_answers_become_outcomes_and_never_batches(tmp_path: Path) -> None:
    bus = MemoryBus("test")
    group = make_group(0, Split.EVAL, size=1)
    bus.publish(ROLLOUTS, make_rollout(group, 0))
    bus.publish(REWARDS, make_reward(group, 0, 1.0))
    with running(Assembler(make_settings(tmp_path), bus)) as assembler:
        assembler.attach(Ledger(step=0), world_size=1)
        assert isinstance(assembler.next_batch(1, 0, timeout_seconds=0.5), NotReady)
    (outcome,) = outcomes(bus)
    assert (outcome.fate, outcome.rollouts[0].reward) == (Fate.EVALUATED, 1.0)


def test_ranks_share_the_batch_and_agree_on_its_totals(tmp_path: Path) -> None:
    bus = MemoryBus("test")
    publish_group(bus, 0)
    publish_group(bus, 1)
    with running(Assembler(make_settings(tmp_path, micro_batch_tokens=8), bus)) as assembler:
        assembler.attach(Ledger(step=0), world_size=2)
        shards = [next_batch(assembler, 1, rank) for rank in range(2)]
    assert sorted(group.group.number for shard in shards for group in shard.groups) == [0, 1]
    assert {shard.num_micro_batches for shard in shards} == {3}
    assert {shard.num_global_tokens for shard in shards} == {16}

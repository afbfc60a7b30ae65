"""The assembly: accounts for every group, serves the same batch again, and says what it waits for."""

import pytest

from assembly import (
    GROUP_SIZE,
    Log,
    group_events,
    ledger_after,
    make_definition,
    make_group,
    make_reward,
    make_rollout,
    make_settings,
    numbers,
)
from tristream.assembler.assembly import Assembly, LedgerMismatchError, NotAttachedError
from tristream.assembler.shards import shard
from tristream.wire.batches import NotReady
from tristream.wire.events import (
    DropReason,
    Fate,
    FinishReason,
    Interval,
    OnUnscored,
    Outcome,
    Reward,
    Rollout,
    Split,
    Status,
)
from tristream.wire.ledger import Ledger


def attached(*events: Rollout | Reward, step: int = 0, **assembly: object) -> Log:
    log = Log(make_settings(**assembly), *events)  # type: ignore[arg-type]
    log.attach(Ledger(step=step))
    return log


def groups(*group_numbers: int) -> list[Rollout | Reward]:
    return [event for number in group_numbers for event in group_events(number, version=1)]


def drops_of(log: Log) -> list[tuple[int, DropReason | None]]:
    return [(outcome.group.number, outcome.drop_reason) for outcome in log.outcomes if outcome.fate is Fate.DROPPED]


def test_asked_again_it_gives_the_same_batch_even_after_the_learner_restarted() -> None:
    log = attached(*groups(0, 1, 2, 3, 4, 5))
    first, second = log.batch(1), log.batch(2)
    log.attach(Ledger(step=0))
    assert log.batch(1) is first
    assert log.batch(2) is second
    assert set(numbers(log.batch(3))).isdisjoint((*numbers(first), *numbers(second)))


def test_ranks_that_attach_one_after_the_other_cause_one_rebuild() -> None:
    log = attached(*groups(0, 1))
    log.read()
    assert log.assembly.continues(Ledger(step=0), world_size=1)
    assert not log.assembly.continues(Ledger(step=0), world_size=2)
    assert not log.assembly.continues(Ledger(step=1), world_size=1)


def test_a_learner_that_lost_a_committed_step_is_not_told_that_all_is_as_it_was() -> None:
    log = attached(*groups(0, 1, 2, 3))
    first = log.batch(1)
    log.commit(ledger_after(first), first)
    with pytest.raises(LedgerMismatchError, match="group 0 was trained at step 1"):
        log.attach(Ledger(step=0))
    assert numbers(log.batch(2)) == [2, 3]


def test_a_new_assembler_serves_only_what_the_learner_has_not_trained() -> None:
    log = attached(*groups(0, 1, 2, 3, 4, 5))
    log.restart_assembler(ledger_after(log.batch(1)))
    assert numbers(log.batch(2)) == [2, 3]


def test_equal_rewards_are_dropped_and_reported_to_the_next_batch() -> None:
    log = attached(*group_events(0, [1.0] * GROUP_SIZE), *groups(1, 2))
    batch = log.batch(1)
    assert (numbers(batch), batch.dropped) == ([1, 2], (0,))
    assert drops_of(log) == [(0, DropReason.ZERO_VARIANCE)]
    assert log.outcomes[0].has_zero_variance
    assert [rollout.reward for rollout in log.outcomes[0].rollouts] == [1.0] * GROUP_SIZE


def test_equal_rewards_are_marked_where_they_are_trained_anyway() -> None:
    log = attached(*group_events(0, [1.0] * GROUP_SIZE), *groups(1), drop_zero_variance=False)
    assert [outcome.has_zero_variance for outcome in log.batch(1).outcomes] == [True, False]


def test_a_drop_that_no_batch_reported_survives_a_restart() -> None:
    log = attached(*group_events(0, [0.0] * GROUP_SIZE))
    log.read()
    assert isinstance(log.ask(1), NotReady)
    log.publish(*groups(1, 2))
    log.restart_assembler()
    assert log.batch(1).dropped == (0,)
    assert len(log.outcomes) == 1


def test_groups_older_than_the_bound_are_dropped_as_stale_and_the_others_carry_their_age() -> None:
    events = [event for number in range(3) for event in group_events(number, version=number)]
    log = attached(*events, step=2)
    batch = log.batch(3)
    assert [(outcome.step, [rollout.age for rollout in outcome.rollouts]) for outcome in batch.outcomes] == [
        (3, [1] * GROUP_SIZE),
        (3, [0] * GROUP_SIZE),
    ]
    assert [outcome.oldest_version for outcome in batch.outcomes] == [1, 2]
    assert all(rollout.advantage == 0.0 for outcome in batch.outcomes for rollout in outcome.rollouts)
    assert batch.dropped == (0,)
    assert drops_of(log) == [(0, DropReason.STALE)]
    assert [rollout.age for rollout in log.outcomes[0].rollouts] == [0] * GROUP_SIZE


def test_a_failed_score_leaves_the_rollout_out_and_never_counts_as_zero() -> None:
    log = attached(*groups(1))
    for index, status in enumerate([Status.SCORED, Status.SCORED, Status.TIMEOUT, Status.ERROR]):
        log.publish(make_rollout(make_group(0), index), make_reward(make_group(0), index, float(index), status))
    batch = log.batch(1)
    assert [rollout.index for rollout in batch.groups[0].rollouts] == [0, 1]
    assert [rollout.valid for rollout in batch.outcomes[0].rollouts] == [True, True, False, False]
    assert [rollout.age for rollout in batch.outcomes[0].rollouts] == [0, 0, 0, 0]


def test_a_rollout_that_failed_or_sampled_nothing_is_not_waited_for_nor_trained() -> None:
    log = attached(*groups(1))
    group = make_group(0)
    log.publish(
        make_rollout(group, 0, num_sampled_tokens=0, finish_reason=FinishReason.ERROR),
        make_rollout(group, 1, finish_reason=FinishReason.ERROR),
        *(make_rollout(group, index) for index in (2, 3)),
        *(make_reward(group, index, float(index)) for index in (1, 2, 3)),
    )
    batch = log.batch(1)
    assert [rollout.index for rollout in batch.groups[0].rollouts] == [2, 3]
    assert shard(batch, 0, 100).num_global_rollouts == 2 + GROUP_SIZE


@pytest.mark.parametrize(
    ("on_unscored", "num_scored", "reason"),
    [
        (OnUnscored.LEAVE_OUT, 1, DropReason.TOO_FEW_VALID),
        (OnUnscored.DROP_GROUP, 3, DropReason.UNSCORED),
        (OnUnscored.ZERO, 0, DropReason.ZERO_VARIANCE),
    ],
)
def test_a_group_without_enough_scores_is_dropped_as_its_sample_says(
    on_unscored: OnUnscored, num_scored: int, reason: DropReason
) -> None:
    log, definition = attached(), make_definition(on_unscored=on_unscored)
    for index in range(GROUP_SIZE):
        status = Status.SCORED if index < num_scored else Status.UNSCORABLE
        log.publish(make_rollout(make_group(0), index, definition=definition))
        log.publish(make_reward(make_group(0), index, float(index), status))
    log.read()
    assert drops_of(log) == [(0, reason)]
    assert log.assembly.counts == {reason: 1}


def test_a_group_that_never_completes_is_dropped_and_says_what_was_missing() -> None:
    log = attached(make_rollout(make_group(0), 0), join_timeout_seconds=60.0)
    log.read()
    waiting = log.ask(1)
    assert isinstance(waiting, NotReady)
    assert waiting.waiting_for == "2 of 2 groups (open ones wait for 1 math, 3 rollouts)"
    log.now_seconds = 60.5
    log.read()
    assert drops_of(log) == [(0, DropReason.INCOMPLETE)]
    assert log.assembly.waiting_for() == "2 of 2 groups"


def test_commit_gives_the_outcomes_and_forgets_the_batch() -> None:
    log = attached(*groups(0, 1))
    batch = log.batch(1)
    log.commit(ledger_after(batch), batch)
    assert [(outcome.group.number, outcome.fate) for outcome in log.outcomes] == [(0, Fate.TRAINED), (1, Fate.TRAINED)]
    assert log.assembly.counts == {Fate.TRAINED: 2}
    assert isinstance(log.ask(1), NotReady)


def test_a_log_with_groups_that_the_checkpoint_does_not_know_is_refused_and_changes_nothing() -> None:
    log = Log(make_settings())
    log.outcomes.append(Outcome(group=make_group(0), fate=Fate.TRAINED, step=4, created_ns=1))
    with pytest.raises(LedgerMismatchError, match="group 0 was trained at step 4"):
        log.attach()
    assert not log.assembly.is_attached
    log.attach(Ledger(step=4, settled=(Interval(start=0, end=1),)))
    assert log.assembly.is_attached


def test_nothing_is_served_before_a_learner_attaches() -> None:
    assembly = Assembly(make_settings())
    assert assembly.waiting_for() == "a learner to attach"
    with pytest.raises(NotAttachedError):
        assembly.next_batch(1, now_ns=0)


def test_evaluation_answers_become_outcomes_and_never_batches() -> None:
    group = make_group(0, Split.EVAL, size=1)
    log = attached(make_rollout(group, 0), make_reward(group, 0, 1.0), make_rollout(group, 0))
    log.read()
    assert isinstance(log.ask(1), NotReady)
    (outcome,) = log.outcomes
    assert (outcome.fate, outcome.rollouts[0].reward, outcome.has_zero_variance) == (Fate.EVALUATED, 1.0, False)


def test_what_is_there_of_an_evaluation_counts_when_the_rest_never_comes() -> None:
    group = make_group(0, Split.EVAL, size=2)
    log = attached(make_rollout(group, 0), make_reward(group, 0, 1.0), join_timeout_seconds=60.0)
    log.read()
    log.now_seconds = 61.0
    log.read()
    (outcome,) = log.outcomes
    assert (outcome.fate, [rollout.reward for rollout in outcome.rollouts]) == (Fate.EVALUATED, [1.0])


def test_ranks_share_the_batch_and_agree_on_its_totals() -> None:
    log = Log(make_settings(), *groups(0, 1))
    log.attach(world_size=2)
    batch = log.batch(1)
    shards = [shard(batch, rank, micro_batch_tokens=8) for rank in range(2)]
    assert sorted(group.group.number for part in shards for group in part.groups) == [0, 1]
    assert {part.num_micro_batches for part in shards} == {3}
    assert {part.num_global_tokens for part in shards} == {16}
    assert {part.outcomes for part in shards} == {batch.outcomes}
    assert {part.trained for part in shards} == {(0, 1)}


def test_offsets_point_at_the_first_record_of_the_oldest_group_that_is_not_settled() -> None:
    late = groups(1)
    log = attached(late[0], *groups(0, 2, 3), *late[1:3])
    offsets = {(hint.topic, hint.partition): hint.offset for hint in log.batch(1).offsets}
    assert offsets == {
        ("rollouts", 0): 2 * GROUP_SIZE,
        ("rollouts", 1): 0,  # group 1 is open, group 3 is ready
        ("rewards", 0): 2 * GROUP_SIZE,
        ("rewards", 1): 0,
    }

"""The assembly: accounts for every group, serves the same batch again, and says what it waits for."""

import math
import pickle
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest

from assembly import (
    GROUP_SIZE,
    LOG_ID,
    MATH,
    Event,
    Log,
    group_events,
    ledger_after,
    make_definition,
    make_group,
    make_prompt,
    make_reward,
    make_rollout,
    make_settings,
    numbers,
)
from tristream.assembler.assembly import Assembly
from tristream.assembler.errors import LedgerMismatchError, NotAttachedError, StepRefusedError
from tristream.assembler.shards import shard
from tristream.wire.batches import NotReady
from tristream.wire.codecs.ledgers import position_to_message
from tristream.wire.events import (
    DropReason,
    Fate,
    FinishReason,
    Interval,
    Ledger,
    OnUnscored,
    Outcome,
    Prompt,
    Rollout,
    Split,
    Status,
    VersionSpan,
)


def attached(*events: Event, step: int = 0, **assembly: object) -> Log:
    log = Log(make_settings(**assembly), *events)  # type: ignore[arg-type]
    log.attach(Ledger(step=step))
    return log


def with_digest(made: Sequence[Event], digest: str) -> list[Event]:
    changed: list[Event] = []
    for event in made:
        if isinstance(event, Prompt):
            changed.append(replace(event, digest=digest))
        elif isinstance(event, Rollout):
            changed.append(replace(event, prompt_digest=digest))
        else:
            changed.append(event)
    return changed


def with_sampled(rollout: Rollout, **changes: Any) -> Rollout:
    given, sampled = rollout.segments
    return replace(rollout, segments=(given, replace(sampled, **changes)))


def groups(*group_numbers: int) -> list[Event]:
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


def test_the_training_reward_counts_groups_that_are_dropped_too() -> None:
    log = attached(*group_events(0, [1.0] * GROUP_SIZE), *groups(1, 2, 3, 4))
    trained = [r.reward for outcome in log.batch(1).outcomes for r in outcome.rollouts]
    means = log.assembly.judged_rewards.means
    assert means == {"words": pytest.approx((sum(trained) + GROUP_SIZE) / (len(trained) + GROUP_SIZE))}
    next_trained = [r.reward for outcome in log.batch(2).outcomes for r in outcome.rollouts]
    assert means == {"words": pytest.approx(sum(next_trained) / len(next_trained))}


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
    assert shard(batch, 0).num_global_rollouts == 2 + GROUP_SIZE


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
    log = attached(make_rollout(make_group(0), 0), generation_timeout_seconds=60.0)
    log.read()
    waiting = log.ask(1)
    assert isinstance(waiting, NotReady)
    assert waiting.waiting_for == "2 of 2 groups (open ones wait for 1 math, 3 rollouts)"
    log.now_seconds = 60.5
    log.read()
    assert drops_of(log) == [(0, DropReason.INCOMPLETE)]
    assert [(rollout.index, rollout.valid) for rollout in log.outcomes[0].rollouts] == [(0, False)]
    assert log.assembly.waiting_for() == "2 of 2 groups"


def test_commit_gives_the_outcomes_and_forgets_the_batch() -> None:
    log = attached(*groups(0, 1))
    batch = log.batch(1)
    log.commit(ledger_after(batch), batch)
    assert [(outcome.group.number, outcome.fate) for outcome in log.outcomes] == [(0, Fate.TRAINED), (1, Fate.TRAINED)]
    assert log.assembly.counts == {Fate.TRAINED: 2}
    assert isinstance(log.ask(2), NotReady)


def test_a_log_with_groups_that_the_checkpoint_does_not_know_is_refused() -> None:
    log = Log(make_settings(), Outcome(group=make_group(0), fate=Fate.TRAINED, step=4, created_ns=1))
    log.attach()
    with pytest.raises(LedgerMismatchError, match="group 0 was trained at step 4, which the checkpoint of step 0"):
        log.read()
    log.assembly.detach()
    log.attach(Ledger(step=4, settled=(Interval(start=0, end=1),)))
    log.read()
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
    group, silent = make_group(0, Split.EVAL, size=3), make_group(1, Split.EVAL, size=3)
    log = attached(make_rollout(group, 0), make_reward(group, 0, 1.0), make_rollout(group, 1), make_prompt(silent))
    log.read()
    log.now_seconds = 1801.0
    log.read()
    assert [outcome.fate for outcome in log.outcomes] == [Fate.EVALUATED] * 2
    assert [(rollout.index, rollout.valid, rollout.reward) for rollout in log.outcomes[0].rollouts] == [
        (0, True, 1.0),
        (1, False, 0.0),
    ]
    assert log.outcomes[1].rollouts == ()


def test_a_group_whose_rollouts_never_come_is_dropped_so_long_after_its_dispatch() -> None:
    log = attached(make_prompt(make_group(0)), generation_timeout_seconds=60.0, scoring_timeout_seconds=5.0)
    log.read()
    log.now_seconds = 59.0
    log.read()
    assert log.outcomes == []
    log.now_seconds = 60.5
    log.read()
    assert drops_of(log) == [(0, DropReason.INCOMPLETE)]


def test_scoring_has_a_limit_of_its_own_from_the_last_rollout_on() -> None:
    group = make_group(0)
    log = attached(make_prompt(group), generation_timeout_seconds=60.0, scoring_timeout_seconds=5.0)
    log.read()
    log.now_seconds = 59.0
    log.publish(*(make_rollout(group, index) for index in range(GROUP_SIZE)), make_reward(group, 0, 1.0))
    log.read()
    log.now_seconds = 63.9
    log.read()
    assert log.outcomes == []
    log.now_seconds = 64.1
    log.read()
    assert drops_of(log) == [(0, DropReason.INCOMPLETE)]
    assert [rollout.valid for rollout in log.outcomes[0].rollouts] == [True, False, False, False]


def test_open_training_groups_are_counted_by_source() -> None:
    log = attached()
    events = group_events(0)
    for event in events[:-1]:
        log.publish_alone(event)
    log.read()
    assert log.assembly.num_open_by_source == {events[0].group.source: 1}
    log.publish_alone(events[-1])
    log.read()
    assert log.assembly.num_open_by_source == {}


def test_records_without_a_prompt_are_forgotten_and_get_no_outcome() -> None:
    log = attached()
    for event in group_events(10**12)[1:]:
        log.publish_alone(event)
    log.read()
    assert log.assembly.num_open == 1
    log.now_seconds = 1801.0
    log.read()
    assert (log.assembly.num_open, log.outcomes) == (0, [])


def test_two_prompts_of_one_number_drop_its_group_while_no_batch_has_it() -> None:
    settings = make_settings(groups_per_step=1)
    for num_read_before in (0, 1, 5, 9):
        log = Log(settings, *with_digest(group_events(0), "a"))
        log.attach()
        log.read(num_read_before)
        log.publish(make_prompt(make_group(0), digest="b"))
        log.read()
        assert drops_of(log) == [(0, DropReason.CONFLICTING)]
        assert isinstance(log.ask(1), NotReady)


def test_rollouts_of_two_prompts_never_become_one_group() -> None:
    made = with_digest(group_events(0), "a")
    made[-2:] = with_digest(made[-2:], "b")
    log = Log(make_settings(groups_per_step=1), *made)
    log.attach()
    log.read()
    assert drops_of(log) == [(0, DropReason.CONFLICTING)]


def test_the_same_prompt_again_is_no_conflict() -> None:
    log = Log(make_settings(groups_per_step=1), *with_digest(group_events(0), "a"), *with_digest(group_events(0), "a"))
    log.attach()
    assert numbers(log.batch(1)) == [0]


def test_records_that_name_another_group_of_the_number_are_left_out() -> None:
    """Whichever comes first: the prompt says what the group is."""
    strange = make_group(0, size=80)
    strangers: list[Event] = [make_reward(strange, 70, 9.0), make_reward(strange, 0, 9.0), make_rollout(strange, 1)]
    for where in (0, 1, 5):
        made: list[Event] = [*group_events(0)]
        made[where:where] = strangers
        log = Log(make_settings(groups_per_step=1))
        log.attach()
        for event in made:
            log.publish_alone(event)
        (outcome,) = log.batch(1).outcomes
        assert [rollout.reward for rollout in outcome.rollouts] == [1.0, 0.0, 0.0, 1.0]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 1.7e308])
def test_a_component_that_is_no_number_scores_nothing(value: float) -> None:
    definition = make_definition(replace(MATH, weights={"accuracy": 10.0}))
    made = [make_rollout(make_group(0), index, definition=definition) for index in range(GROUP_SIZE)]
    rewards = [make_reward(make_group(0), index, accuracy) for index, accuracy in enumerate([value, 1.0, 0.0, 1.0])]
    log = Log(make_settings(groups_per_step=1), *made, *rewards)
    log.attach()
    (outcome,) = log.batch(1).outcomes
    assert [rollout.valid for rollout in outcome.rollouts] == [False, True, True, True]


@pytest.mark.parametrize(
    "spoil",
    [
        lambda rollout: replace(rollout, temperature=0.0),
        lambda rollout: replace(rollout, temperature=math.nan),
        lambda rollout: with_sampled(rollout, version_spans=()),
        lambda rollout: with_sampled(rollout, version_spans=(VersionSpan(version=-4, start=0, end=2),)),
    ],
)
def test_a_rollout_whose_numbers_cannot_be_trained_is_left_out(spoil: Callable[[Rollout], Rollout]) -> None:
    made = group_events(0)
    log = Log(make_settings(groups_per_step=1))
    log.publish(*(spoil(e) if isinstance(e, Rollout) and e.index == 0 else e for e in made))
    log.attach()
    batch = log.batch(1)
    assert [rollout.index for rollout in batch.groups[0].rollouts] == [1, 2, 3]
    assert batch.groups[0].oldest_version == 0


def test_only_built_steps_and_the_next_one_are_to_be_had() -> None:
    log = attached(*groups(*range(8)), step=3, max_staleness=99)
    log.read()
    for step in (-1, 0, 3, 5, 10**9):
        with pytest.raises(StepRefusedError):
            log.ask(step)
    assert log.assembly.num_ready == 8
    first = log.batch(4)
    second = log.batch(5)
    assert (log.batch(4), log.batch(5)) == (first, second)
    log.commit(ledger_after(first, start=Ledger(step=3)), first)
    with pytest.raises(StepRefusedError, match="step 4 is committed; the next one is step 6"):
        log.ask(4)
    assert log.batch(5) is second
    assert numbers(log.batch(6)) == [4, 5]


def test_a_step_that_was_not_served_cannot_be_committed() -> None:
    log = attached(*groups(0, 1))
    batch = log.batch(1)
    with pytest.raises(StepRefusedError, match="step 7 cannot be committed"):
        log.commit(replace(ledger_after(batch), step=7), batch)
    assert log.outcomes == []
    assert log.batch(1) is batch


def test_right_after_a_commit_a_learner_goes_on_without_a_rebuild() -> None:
    log = attached(*groups(0, 1, 2, 3, 4, 5))
    first = log.batch(1)
    committed = ledger_after(first)
    log.commit(committed, first)
    assert log.assembly.continues(committed, world_size=1)
    second = log.batch(2)
    assert log.assembly.continues(committed, world_size=1)
    assert log.assembly.continues(ledger_after(second, start=committed), world_size=1)
    assert not log.assembly.continues(replace(committed, settled=(Interval(start=0, end=1),)), world_size=1)


def test_outcomes_of_an_earlier_assembler_count_wherever_they_are_on_the_log() -> None:
    """It dropped two complete groups and answered an evaluation; nothing gets a second outcome."""
    answer = make_group(0, Split.EVAL, size=1)
    dropped = Outcome(group=make_group(0), fate=Fate.DROPPED, drop_reason=DropReason.STALE, created_ns=1)
    answered = Outcome(group=answer, fate=Fate.EVALUATED, created_ns=1)
    flat = Outcome(group=make_group(3), fate=Fate.DROPPED, drop_reason=DropReason.ZERO_VARIANCE, created_ns=1)
    events: list[Event] = [
        *groups(0, 1, 2),
        *group_events(3, [1.0] * GROUP_SIZE),
        make_rollout(answer, 0),
        make_reward(answer, 0, 1.0),
    ]
    for where in (0, len(events)):
        log = Log(make_settings(), *events[:where], dropped, answered, flat, *events[where:])
        log.attach()
        batch = log.batch(1)
        assert (numbers(batch), batch.dropped) == ([1, 2], (0, 3))
        assert log.outcomes == [dropped, answered, flat]


def test_while_the_log_is_read_nothing_is_decided_and_the_wait_is_named() -> None:
    log = attached(*group_events(0, [1.0] * GROUP_SIZE), *groups(1, 2))
    log.read(15)
    answer = log.ask(1)
    assert isinstance(answer, NotReady)
    assert answer.waiting_for == "reading the log: 15 records"
    assert log.outcomes == []
    log.read()
    assert drops_of(log) == [(0, DropReason.ZERO_VARIANCE)]


def test_a_position_of_another_log_is_not_used() -> None:
    log = attached(*groups(0, 1))
    ledger = ledger_after(log.batch(1))
    assert Assembly(make_settings()).attach(ledger, 1, LOG_ID) != {}
    assert Assembly(make_settings()).attach(ledger, 1, "another") == {}


def test_what_it_holds_does_not_grow_with_the_run() -> None:
    log = Log(make_settings(max_staleness=999))
    ledger = Ledger(step=0)
    log.attach(ledger)
    sizes = []
    for step in range(1, 301):
        first = 3 * step
        answer = make_group(0, Split.EVAL, size=1, eval_step=step)
        log.publish(make_rollout(answer, 0), make_reward(answer, 0, 1.0))
        log.publish(*group_events(first, [1.0] * GROUP_SIZE), *groups(first + 1, first + 2))
        batch = log.batch(step)
        ledger = ledger_after(batch, start=ledger)
        log.commit(ledger, batch)
        position = position_to_message(batch.position).SerializeToString()
        sizes.append((len(position), len(pickle.dumps(log.assembly))))
    for early, late in zip(sizes[199], sizes[299], strict=True):
        assert late <= 1.1 * early


def test_ranks_share_the_batch_and_agree_on_its_totals() -> None:
    log = Log(make_settings(), *groups(0, 1))
    log.attach(world_size=2)
    batch = log.batch(1)
    shards = [shard(batch, rank) for rank in range(2)]
    assert sorted(group.group.number for part in shards for group in part.groups) == [0, 1]
    assert {part.num_global_tokens for part in shards} == {16}
    assert {part.outcomes for part in shards} == {batch.outcomes}
    assert {part.trained for part in shards} == {(0, 1)}


def test_the_position_is_the_first_record_of_the_oldest_group_that_is_not_settled() -> None:
    late = groups(1)
    log = attached(late[0], late[1], *groups(0, 2, 3), *late[2:4])
    position = log.batch(1).position
    assert position.offsets_on(LOG_ID) == {
        ("prompts", 0): 2,
        ("prompts", 1): 0,
        ("rollouts", 0): 2 * GROUP_SIZE,
        ("rollouts", 1): 0,  # group 1 is open, group 3 is ready
        ("rewards", 0): 2 * GROUP_SIZE,
        ("rewards", 1): 0,
    }
    assert position.evaluated == ()

"""Micro-batches within a budget: few of them, none too large, and each rollout in one; lengths only."""

import logging
import math
import random
from collections.abc import Sequence

import pytest
from hypothesis import given as with_examples
from hypothesis import settings
from hypothesis import strategies as st

from training_groups import TEXT_RULES, advantages_of, make_rollout, sampled_as, units_of, wrap_rollouts
from tristream.learner.training.packing import pack_plan, plan_groups
from tristream.learner.training.planning import UnitLengths, plan_lengths, plan_within
from tristream.wire.arrays import Tokens
from tristream.wire.events import given

BUDGET = 60

SMALL_UNITS = st.lists(
    st.builds(
        UnitLengths,
        prefix=st.integers(1, BUDGET // 2),
        tails=st.lists(st.integers(0, BUDGET // 2), min_size=1, max_size=4).map(tuple),
    ),
    min_size=1,
    max_size=4,
)
ANY_UNITS = st.lists(
    st.builds(
        UnitLengths,
        prefix=st.integers(1, 2 * BUDGET),
        tails=st.lists(st.integers(0, 2 * BUDGET), min_size=1, max_size=16).map(tuple),
    ),
    max_size=24,
)


@settings(deadline=None, max_examples=300)
@with_examples(units=ANY_UNITS)
def test_each_rollout_is_in_one_micro_batch_and_none_exceeds_the_budget_but_a_rollout_that_does_alone(
    units: list[UnitLengths],
) -> None:
    plan = plan_lengths(units, BUDGET)
    placed = sorted((piece.unit, rollout) for pieces in plan for piece in pieces for rollout in piece.rollouts)
    assert placed == [(number, index) for number, unit in enumerate(units) for index in range(len(unit.tails))]
    for pieces in plan:
        load = sum(units[p.unit].prefix + sum(units[p.unit].tails[i] for i in p.rollouts) for p in pieces)
        assert load == sum(piece.num_tokens for piece in pieces)
        assert load <= BUDGET or [len(piece.rollouts) for piece in pieces] == [1]
    assert plan == plan_lengths(units, BUDGET)


@settings(deadline=None, max_examples=300)
@with_examples(units=SMALL_UNITS)
def test_the_number_of_micro_batches_is_within_one_of_the_optimum(units: list[UnitLengths]) -> None:
    num_planned = len(plan_lengths(units, BUDGET))
    assert find_optimum(units, num_planned) >= num_planned - 1


@settings(deadline=None, max_examples=200)
@with_examples(seed=st.integers(0, 2**32), num_micro_batches=st.integers(1, 12))
def test_the_number_is_within_one_of_a_plan_that_fills_every_micro_batch(seed: int, num_micro_batches: int) -> None:
    units = cut_full_micro_batches(random.Random(seed), num_micro_batches)
    assert len(plan_lengths(units, BUDGET)) <= num_micro_batches + 1


def find_optimum(units: Sequence[UnitLengths], known: int) -> int:
    """The fewest micro-batches, by trying each rollout everywhere; at most the number that is known to do."""
    rollouts = [(unit, tail) for unit, lengths in enumerate(units) for tail in lengths.tails]
    rollouts.sort(key=lambda one: -units[one[0]].prefix - one[1])
    fewest = known

    def place(number: int, bins: list[tuple[int, frozenset[int]]]) -> None:
        nonlocal fewest
        if len(bins) >= fewest:
            return
        if number == len(rollouts):
            fewest = len(bins)
            return
        unit, tail = rollouts[number]
        for position, (room, held) in enumerate(bins):
            cost = tail + (0 if unit in held else units[unit].prefix)
            if cost <= room and (room, held) not in bins[:position]:
                place(number + 1, [*bins[:position], (room - cost, held | {unit}), *bins[position + 1 :]])
        place(number + 1, [*bins, (BUDGET - tail - units[unit].prefix, frozenset({unit}))])

    place(0, [])
    return fewest


def cut_full_micro_batches(generator: random.Random, count: int) -> list[UnitLengths]:
    """Units, some of them over several micro-batches, that fill so many without any room left."""
    prefixes: list[int] = []
    tails: list[list[int]] = []
    for _ in range(count):
        room, held = BUDGET, set[int]()
        while room:
            again = [unit for unit, prefix in enumerate(prefixes) if prefix < room and unit not in held]
            if again and generator.random() < 0.4:
                unit = generator.choice(again)
            else:
                unit = len(prefixes)
                prefixes.append(generator.randint(1, min(room, BUDGET // 3)))
                tails.append([])
            held.add(unit)
            room -= prefixes[unit]
            for _ in range(generator.randint(1, 6)):
                tail = generator.randint(0, min(room, BUDGET // 2))
                tails[unit].append(tail)
                room -= tail
    return [UnitLengths(prefix=p, tails=tuple(of_unit)) for p, of_unit in zip(prefixes, tails, strict=True)]


def test_a_shared_prompt_counts_once() -> None:
    units = [UnitLengths(prefix=1024, tails=(96,) * 8) for _ in range(4)]
    assert len(plan_lengths(units, 4096)) == 2


def test_a_unit_is_split_only_where_that_saves_micro_batches() -> None:
    apart = [UnitLengths(prefix=30, tails=(1, 1)) for _ in range(4)]
    assert [len(pieces) for pieces in plan_lengths(apart, BUDGET)] == [1, 1, 1, 1], "a second prefix has no room"
    close = [UnitLengths(prefix=2, tails=(8, 8, 8, 8)) for _ in range(10)]
    assert len(plan_lengths(close, BUDGET)) <= math.ceil(34 * 10 / BUDGET) + 1


def test_a_unit_beyond_the_budget_repeats_its_prefix_in_each_part() -> None:
    prompt = given(Tokens.of([5] * 20))
    group = wrap_rollouts(0, [make_rollout(index, [prompt, sampled_as([10 + index] * 17)]) for index in range(6)])
    plan = plan_groups([group], {}, advantages_of([group]), BUDGET, TEXT_RULES)
    micro_batches = pack_plan(plan, 5, TEXT_RULES)
    assert [len(one.rollouts) for one in micro_batches if not one.is_filler] == [2, 2, 2]
    assert [one.num_tokens for one in micro_batches] == [20 + 2 * 16] * 3 + [1, 1]


def test_a_rollout_beyond_the_budget_is_alone_and_the_log_says_so_once(caplog: pytest.LogCaptureFixture) -> None:
    prompt = given(Tokens.of([5] * 20))
    lengths = (100, 17, 17, 100)
    group = wrap_rollouts(
        0, [make_rollout(index, [prompt, sampled_as([10 + index] * length)]) for index, length in enumerate(lengths)]
    )
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            plan = plan_within(units_of(group), BUDGET)
            assert sorted(sum(len(unit.sequences) for unit in units) for units in plan) == [1, 1, 2]
            assert sorted(sum(unit.num_tokens for unit in units) for units in plan) == [52, 119, 119]
    assert caplog.text.count("has a micro-batch of its own") <= 1


def test_a_rank_without_groups_plans_nothing_and_runs_fillers_without_a_trained_token() -> None:
    plan = plan_groups([], {}, {}, BUDGET, TEXT_RULES)
    assert plan.micro_batches == ()
    fillers = pack_plan(plan, 3, TEXT_RULES)
    assert [one.is_filler for one in fillers] == [True] * 3
    assert not any(bool(one.is_trained.any()) or one.images for one in fillers)
    assert all(one.input_ids.tolist() == [[0]] for one in fillers)

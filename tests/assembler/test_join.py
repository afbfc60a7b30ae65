"""The join: any order, each fact once, one definition of reward a group, and shadows that nobody waits for."""

import gc
import random
import tracemalloc
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from assembly import (
    GROUP_SIZE,
    MATH,
    Event,
    Log,
    group_events,
    make_definition,
    make_group,
    make_prompt,
    make_reward,
    make_rollout,
    make_settings,
    numbers,
)
from own_process import in_own_process
from tristream.assembler.decoding import PROMPT_FACTS, ROLLOUT_FACTS
from tristream.assembler.facts import prompt_fact, reward_fact, rollout_fact
from tristream.assembler.join import Joiner, OpenGroup
from tristream.wire.batches import NotReady
from tristream.wire.events import Image, Outcome, Reward, RewardSpec, RewardTerm, Rollout, TermMode
from tristream.wire.topics import PROMPTS, ROLLOUTS

MATH_2 = replace(MATH, version="2")
SECOND_TERM = replace(MATH, id="math-2", weights={"accuracy": 3.0})
SHADOW = replace(MATH, id="shadow", version="2", mode=TermMode.SHADOW)
WEIGHTLESS = replace(MATH, id="weightless", weights={"accuracy": 0.0})
STRANGER = replace(MATH, id="stranger")
PLAIN = [*group_events(0), *group_events(1, [0.0, 0.5, 1.0, 0.25])]


def rewards_of(number: int, *scores: float, term: RewardTerm = MATH) -> list[Reward]:
    group = make_group(number)
    return [make_reward(group, index, score, term=term) for index, score in enumerate(scores)]


def rollouts_of(number: int, definition: RewardSpec) -> list[Rollout]:
    return [make_rollout(make_group(number), index, definition=definition) for index in range(GROUP_SIZE)]


def open_group() -> OpenGroup:
    state = OpenGroup(group=make_group(0), opened_seconds=0.0)
    state.add(prompt_fact(make_prompt(make_group(0))))
    return state


def only_outcome(*events: Event) -> Outcome:
    log = Log(make_settings(groups_per_step=1), *events)
    log.attach()
    (outcome,) = log.batch(1).outcomes
    return outcome


def rewards_in(outcome: Outcome) -> list[float]:
    return [rollout.reward for rollout in outcome.rollouts]


NOISE = [
    reward for number in range(2) for term in (MATH_2, STRANGER) for reward in rewards_of(number, 9, 8, 7, 6, term=term)
]


@given(st.permutations([*PLAIN, *PLAIN[::3], *NOISE]))
def test_joined_in_any_order_with_repeats_and_strangers_the_batch_is_the_same(events: list[Event]) -> None:
    logs = [Log(make_settings(), *some) for some in (PLAIN, events)]
    for log in logs:
        log.attach()
    plain, shuffled = (log.batch(1) for log in logs)
    assert [scored.rollouts for scored in shuffled.groups] == [scored.rollouts for scored in plain.groups]
    assert shuffled.outcomes == plain.outcomes
    assert numbers(plain) == [0, 1]


@given(st.randoms(use_true_random=False), st.sampled_from([MATH, MATH_2]))
def test_rewards_of_two_versions_of_one_verifier_never_mix_in_a_group(dice: random.Random, pinned: RewardTerm) -> None:
    old, new = [0.0, 0.1, 0.2, 0.3], [1.0, 0.9, 0.8, 0.7]
    definition = make_definition(pinned)
    events: list[Event] = [
        *rollouts_of(0, definition),
        *rewards_of(0, *old),
        *rewards_of(0, *new, term=MATH_2),
    ]
    dice.shuffle(events)
    assert rewards_in(only_outcome(*events)) == (old if pinned is MATH else new)


def test_a_rollout_under_another_definition_does_not_get_into_the_group() -> None:
    stray = make_rollout(make_group(0), 1, definition=make_definition(MATH_2))
    first, *others = rollouts_of(0, make_definition())
    events: list[Event] = [
        first,
        stray,
        *rewards_of(0, 9, 9, 9, 9, term=MATH_2),
        *others,
        *rewards_of(0, 0.0, 0.1, 0.2, 0.3),
    ]
    assert rewards_in(only_outcome(*events)) == [0.0, 0.1, 0.2, 0.3]


def test_shadows_and_terms_without_weight_that_never_answer_delay_nothing() -> None:
    definition = make_definition(SHADOW, MATH, WEIGHTLESS)
    outcome = only_outcome(*rollouts_of(0, definition), *rewards_of(0, 0.0, 1.0, 0.0, 1.0))
    assert rewards_in(outcome) == [0.0, 1.0, 0.0, 1.0]


@given(st.lists(st.floats(-9, 9), min_size=4, max_size=4), st.randoms(use_true_random=False))
def test_whatever_a_shadow_answers_and_whenever_the_rewards_are_the_same(
    said: list[float], dice: random.Random
) -> None:
    events: list[Event] = [
        *rollouts_of(0, make_definition(SHADOW, MATH)),
        *rewards_of(0, 0.0, 1.0, 0.0, 1.0),
    ]
    events += rewards_of(0, *said, term=SHADOW)
    dice.shuffle(events)
    assert rewards_in(only_outcome(*events)) == [0.0, 1.0, 0.0, 1.0]


def test_two_terms_of_one_verifier_in_a_row_are_both_waited_for_and_both_count() -> None:
    log = Log(make_settings(groups_per_step=1), *rollouts_of(0, make_definition(MATH, SECOND_TERM)))
    log.attach()
    log.publish(*rewards_of(0, 1.0, 1.0, 0.0, 0.0))
    log.read()
    waiting = log.ask(1)
    assert isinstance(waiting, NotReady)
    assert waiting.waiting_for == "1 of 1 groups (open ones wait for 4 math-2)"
    log.publish(*rewards_of(0, 1.0, 0.0, 1.0, 0.0, term=SECOND_TERM))
    (outcome,) = log.batch(1).outcomes
    assert rewards_in(outcome) == [1.0, 0.25, 0.75, 0.0]


def test_the_first_of_two_equal_facts_wins() -> None:
    events: list[Event] = [
        *rollouts_of(0, make_definition()),
        *rewards_of(0, 0.0, 0.1, 0.2),
        *rewards_of(0, 5.0, 5.0, 5.0, 0.3),
    ]
    assert rewards_in(only_outcome(*events)) == [0.0, 0.1, 0.2, 0.3]


def test_prompt_and_images_of_a_group_are_kept_once() -> None:
    state = open_group()
    for index in range(2):
        image = Image(media_type="image/png", sha256="0" * 64, size_bytes=3, data=bytes([1, 2, 3]))
        state.add(rollout_fact(make_rollout(make_group(0), index, images=(image,))))
    first, second = (rollout.training.segments for rollout in state.rollouts.values())
    assert first[0] is second[0]
    assert first[1] is not second[1]


def test_of_a_reward_that_nobody_asked_for_nothing_is_kept() -> None:
    state = open_group()
    for reward in (*rewards_of(0, 1.0, 1.0, term=MATH_2), *rewards_of(0, 1.0, term=STRANGER)):
        state.add(reward_fact(reward))
    assert not state.scores


@in_own_process
def test_a_group_in_flight_costs_little_more_than_its_packed_tokens() -> None:
    """Held as Python numbers, its tokens alone would cost nine times as much."""
    num_groups, num_tokens = 8, 2000
    prompts = [PROMPTS.codec.encode(make_prompt(make_group(number), digest="d")) for number in range(num_groups)]
    sent = [
        ROLLOUTS.codec.encode(make_rollout(make_group(number), index, num_sampled_tokens=num_tokens, digest="d"))
        for number in range(num_groups)
        for index in range(GROUP_SIZE)
    ]
    joiner = Joiner(lambda _group: False)
    tracemalloc.start()
    try:
        for offset, data in enumerate(prompts):
            assert joiner.add(PROMPT_FACTS.codec.decode(data), ("prompts", 0, offset), 0.0) is None
        for offset, data in enumerate(sent):
            assert joiner.add(ROLLOUT_FACTS.codec.decode(data), ("rollouts", 0, offset), 0.0) is None
        gc.collect()
        held_bytes, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(joiner) == num_groups
    packed_bytes = num_groups * GROUP_SIZE * num_tokens * 8
    assert packed_bytes <= held_bytes <= 1.5 * packed_bytes

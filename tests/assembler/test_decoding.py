"""Decoding: facts from bytes are what is kept of the events that the bytes hold, and junk never becomes a fact."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from assembly import make_group, make_reward, make_rollout
from event_strategies import PROMPT_EVENTS, REWARD_EVENTS, ROLLOUT_EVENTS, outcomes
from tristream.assembler.decoding import FACT_TOPICS, OUTCOME_FACTS, PROMPT_FACTS, REWARD_FACTS, ROLLOUT_FACTS
from tristream.assembler.facts import outcome_fact, prompt_fact, reward_fact, rollout_fact
from tristream.runtime.bus.memory import MemoryBus
from tristream.wire.codecs.base import MalformedEventError
from tristream.wire.events import Outcome, Prompt, Reward, Rollout
from tristream.wire.topics import DEAD_LETTERS, OUTCOMES, PROMPTS, REWARDS, ROLLOUTS


@given(PROMPT_EVENTS)
def test_of_a_prompt_is_kept_what_is_joined(prompt: Prompt) -> None:
    assert PROMPT_FACTS.codec.decode(PROMPTS.codec.encode(prompt)) == prompt_fact(prompt)


@given(ROLLOUT_EVENTS)
def test_of_a_rollout_is_kept_what_is_trained(rollout: Rollout) -> None:
    assert ROLLOUT_FACTS.codec.decode(ROLLOUTS.codec.encode(rollout)) == rollout_fact(rollout)


@given(REWARD_EVENTS)
def test_of_a_reward_is_kept_the_score(reward: Reward) -> None:
    assert REWARD_FACTS.codec.decode(REWARDS.codec.encode(reward)) == reward_fact(reward)


@given(outcomes())
def test_of_an_outcome_is_kept_the_fate(outcome: Outcome) -> None:
    assert OUTCOME_FACTS.codec.decode(OUTCOMES.codec.encode(outcome)) == outcome_fact(outcome)


@pytest.mark.parametrize("topic", FACT_TOPICS, ids=lambda topic: topic.name)
@given(data=st.binary(max_size=200))
def test_junk_is_a_malformed_event(topic: Any, data: bytes) -> None:
    try:
        topic.codec.decode(data)
    except MalformedEventError:
        return


def test_what_cannot_be_is_a_dead_letter_with_its_reason() -> None:
    bus = MemoryBus("test")
    group = make_group(0)
    bus.publish(ROLLOUTS, make_rollout(group, 4))
    bus.publish(REWARDS, make_reward(group, 2**30, 1.0))
    assert list(bus.reader(FACT_TOPICS).read_to_end()) == []
    letters = [record.event for record in bus.reader([DEAD_LETTERS]).read_to_end()]
    assert sorted(letter.error for letter in letters) == [
        "reward has index 1073741824 in a group of 4",
        "rollout has index 4 in a group of 4",
    ]

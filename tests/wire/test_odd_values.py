"""Numbers that are none and texts that are no Unicode: refused by readers, or made readable by writers."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from event_strategies import (
    COMMAND_EVENTS,
    EVENTS,
    PROMPT_EVENTS,
    REWARD_EVENTS,
    ROLLOUT_EVENTS,
    ROLLOUT_OUTCOMES,
    outcomes,
    sampled_segments,
)
from tristream.wire import events
from tristream.wire.arrays import LogProbs, Tokens
from tristream.wire.codecs.base import MalformedEventError, to_utf8
from tristream.wire.topics import COMMANDS, OUTCOMES, PROMPTS, REWARDS, ROLLOUTS, STEPS, Topic

ODD_NUMBERS = st.sampled_from([math.nan, math.inf, -math.inf])
SURROGATES = "\ud83d a\udfff"


@given(st.lists(st.floats(width=32)))
def test_log_probabilities_are_finite_if_each_of_them_is(values: list[float]) -> None:
    assert LogProbs.of(values).is_finite == all(map(math.isfinite, values))


@pytest.mark.parametrize("value", [3.4028235e38, -3.4028235e38, 2.0**127, 0.0, -1e-45])
def test_the_largest_and_smallest_numbers_are_finite(value: float) -> None:
    assert LogProbs.of([-1.0, value]).is_finite


@given(ROLLOUT_EVENTS, sampled_segments(min_tokens=1), ODD_NUMBERS, st.data())
def test_a_rollout_with_a_log_probability_that_is_no_number_is_malformed(
    event: events.Rollout, segment: events.Segment, odd: float, data: st.DataObject
) -> None:
    logprobs = segment.logprobs.to_list()
    logprobs[data.draw(st.integers(0, len(logprobs) - 1))] = odd
    broken = replace(segment, logprobs=LogProbs.of(logprobs))
    rollout = replace(event, segments=(events.given(Tokens.of([1])), broken))
    with pytest.raises(MalformedEventError, match="a log-probability is not finite"):
        ROLLOUTS.codec.decode(ROLLOUTS.codec.encode(rollout))


def with_weight(event: Any, odd: float) -> Any:
    term = replace(event.reward.terms[0], weights={"accuracy": odd})
    return replace(event, reward=replace(event.reward, terms=(term, *event.reward.terms[1:])))


def with_rollout_outcome(event: events.Outcome, odd: float) -> events.Outcome:
    (rollout,) = event.rollouts[:1]
    return replace(event, rollouts=(replace(rollout, reward=odd),))


@pytest.mark.parametrize(
    ("topic", "strategy", "change"),
    [
        (PROMPTS, PROMPT_EVENTS, lambda e, odd: replace(e, sampling=replace(e.sampling, temperature=odd))),
        (PROMPTS, PROMPT_EVENTS, lambda e, odd: replace(e, sampling=replace(e.sampling, top_p=odd))),
        (PROMPTS, PROMPT_EVENTS, with_weight),
        (ROLLOUTS, ROLLOUT_EVENTS, lambda e, odd: replace(e, temperature=odd)),
        (ROLLOUTS, ROLLOUT_EVENTS, with_weight),
        (REWARDS, REWARD_EVENTS, lambda e, odd: replace(e, components={"accuracy": odd})),
        (REWARDS, REWARD_EVENTS, lambda e, odd: replace(e, metrics={"iou": odd})),
        (COMMANDS, COMMAND_EVENTS, lambda e, odd: replace(e, weights={"accuracy": odd})),
        (
            OUTCOMES,
            st.builds(lambda e, r: replace(e, rollouts=(r,)), outcomes(), ROLLOUT_OUTCOMES),
            with_rollout_outcome,
        ),
    ],
)
def test_a_number_to_compute_with_that_is_none_is_malformed(
    topic: Topic[Any], strategy: st.SearchStrategy[Any], change: Callable[[Any, float], Any]
) -> None:
    @settings(max_examples=15)
    @given(strategy, ODD_NUMBERS)
    def check(event: object, odd: float) -> None:
        with pytest.raises(MalformedEventError, match="is not finite"):
            topic.codec.decode(topic.codec.encode(change(event, odd)))

    check()


def test_a_step_report_tells_a_loss_that_is_no_number() -> None:
    report = events.StepReport(
        run="demo", step=1, total_steps=2, metrics={"loss": math.nan}, layer_grad_norms={}, phase_seconds={},
        rollouts=(), outcomes=(), num_completion_tokens=0, created_ns=0,
    )  # fmt: skip
    assert math.isnan(STEPS.codec.decode(STEPS.codec.encode(report)).metrics["loss"])


def poison(value: Any, surrogates: str) -> Any:
    """The event with surrogates at the end of every text of its own that is not an enum."""
    changes = {
        name: text + surrogates
        for name in type(value).__dataclass_fields__
        if type(text := getattr(value, name)) is str
    }
    return replace(value, **changes)


@pytest.mark.parametrize(("topic", "strategy"), EVENTS, ids=lambda value: getattr(value, "name", ""))
def test_texts_that_are_no_unicode_are_written_as_unicode(topic: Topic[Any], strategy: st.SearchStrategy[Any]) -> None:
    @settings(max_examples=30)
    @given(strategy)
    def check(event: Any) -> None:
        poisoned = poison(event, SURROGATES)
        if hasattr(event, "group"):
            poisoned = replace(poisoned, group=poison(event.group, SURROGATES))
        assert topic.codec.decode(topic.codec.encode(poisoned)) == unpoison(event, poisoned)
        to_utf8(topic.key(poisoned)).decode()

    check()


def unpoison(event: Any, poisoned: Any) -> Any:
    clean = poison(event, "� a�")
    return replace(clean, group=poison(event.group, "� a�")) if hasattr(poisoned, "group") else clean


@given(st.text(st.characters(exclude_categories=[]), max_size=20))
def test_unicode_stays_as_it_is_and_anything_becomes_unicode(text: str) -> None:
    data = to_utf8(text)
    assert len(data.decode()) <= len(text)
    if not any(0xD800 <= ord(character) < 0xE000 for character in text):
        assert data.decode() == text


def test_two_halves_of_a_character_become_it() -> None:
    assert to_utf8("\ud83d\ude00").decode() == "😀"

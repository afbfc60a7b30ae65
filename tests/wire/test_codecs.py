"""Property tests of every codec: what is encoded comes back equal, and junk never becomes an event."""

import dataclasses
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tristream.wire import events
from tristream.wire.codecs import MalformedEventError
from tristream.wire.topics import (
    ALL_TOPICS,
    DEAD_LETTERS,
    OUTCOMES,
    POLICY,
    PROMPTS,
    REWARDS,
    ROLLOUTS,
    STEPS,
    VERIFIERS,
    Topic,
)

NAMES = st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), min_size=1, max_size=12)
TEXTS = st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), max_size=40)
NUMBERS = st.integers(0, 2**40)
REALS = st.floats(allow_nan=False, allow_infinity=False)
VALUES = st.dictionaries(NAMES, REALS, max_size=4)
TOKENS = st.lists(st.integers(0, 2**31 - 1), max_size=20).map(tuple)

GROUPS = st.builds(
    events.Group,
    run=NAMES,
    split=st.sampled_from(events.Split),
    number=NUMBERS,
    source=NAMES,
    sample_id=TEXTS,
    size=st.integers(8, 64),
    eval_step=NUMBERS,
)
IMAGES = st.one_of(
    st.builds(events.Image, media_type=NAMES, sha256=NAMES, size_bytes=NUMBERS, data=st.binary(min_size=1)),
    st.builds(events.Image, media_type=NAMES, sha256=NAMES, size_bytes=NUMBERS, uri=NAMES),
)
TERMS = st.builds(events.RewardTerm, verifier=NAMES, weights=VALUES, params_json=TEXTS)
SPECS = st.builds(
    events.RewardSpec,
    terms=st.lists(TERMS, min_size=1, max_size=3).map(tuple),
    ground_truth=TEXTS,
    combine=st.sampled_from(events.Combine),
    on_unscored=st.sampled_from(events.OnUnscored),
)
PROGRESS = st.builds(events.Progress, step=NUMBERS, total_steps=st.integers(1, 2**40))
WEIGHTS = st.builds(events.Weights, version=NUMBERS, uri=NAMES, sha256=TEXTS)
INTERVALS = st.lists(st.builds(events.Interval, start=NUMBERS, end=NUMBERS), max_size=4).map(tuple)
SAMPLING = st.builds(
    events.Sampling, temperature=REALS, top_p=REALS, max_tokens=st.integers(0, 2**31 - 1), seed=st.integers(0, 2**63)
)


@st.composite
def rollouts(draw: st.DrawFn) -> events.Rollout:
    """A valid rollout: as many log-probabilities as completion tokens."""
    tokens = draw(TOKENS)
    logprobs = tuple(draw(st.floats(width=32, allow_nan=False, max_value=0.0)) for _ in tokens)
    spans = st.builds(events.VersionSpan, version=NUMBERS, start=st.integers(0, 9), end=st.integers(0, 9))
    return draw(
        st.builds(
            events.Rollout,
            group=GROUPS,
            index=st.integers(0, 7),
            prompt_tokens=TOKENS,
            completion_tokens=st.just(tokens),
            logprobs=st.just(logprobs),
            version_spans=st.lists(spans, max_size=3).map(tuple),
            text=TEXTS,
            finish_reason=st.sampled_from(events.FinishReason),
            images=st.lists(IMAGES, max_size=2).map(tuple),
            prompt_text=TEXTS,
            reward=SPECS,
            progress=PROGRESS,
            temperature=REALS,
            queued_seconds=REALS,
            generate_seconds=REALS,
            producer=TEXTS,
            created_ns=NUMBERS,
        )
    )


EVENTS: tuple[tuple[Topic[Any], st.SearchStrategy[Any]], ...] = (
    (
        PROMPTS,
        st.builds(
            events.Prompt,
            group=GROUPS,
            messages=st.lists(st.builds(events.Message, role=NAMES, content=TEXTS), min_size=1, max_size=3).map(tuple),
            images=st.lists(IMAGES, max_size=2).map(tuple),
            reward=SPECS,
            sampling=SAMPLING,
            progress=PROGRESS,
            pinned_weights=st.none() | WEIGHTS,
            created_ns=NUMBERS,
        ),
    ),
    (ROLLOUTS, rollouts()),
    (
        REWARDS,
        st.builds(
            events.Reward,
            group=GROUPS,
            index=st.integers(0, 7),
            verifier=NAMES,
            version=TEXTS,
            status=st.sampled_from(events.Status),
            detail=TEXTS,
            components=VALUES,
            metrics=VALUES,
            params_json=TEXTS,
            queued_seconds=REALS,
            score_seconds=REALS,
            created_ns=NUMBERS,
        ),
    ),
    (
        OUTCOMES,
        st.builds(
            events.Outcome,
            group=GROUPS,
            fate=st.sampled_from(events.Fate),
            step=NUMBERS,
            reason=NAMES,
            rollouts=st.lists(
                st.builds(
                    events.RolloutOutcome, index=st.integers(0, 7), valid=st.booleans(), reward=REALS, advantage=REALS
                ),
                max_size=3,
            ).map(tuple),
            oldest_version=st.integers(-1, 100),
            created_ns=NUMBERS,
        ),
    ),
    (
        POLICY,
        st.builds(
            events.PolicyVersion,
            run=NAMES,
            weights=WEIGHTS,
            total_steps=NUMBERS,
            settled=INTERVALS,
            dropped=INTERVALS,
            created_ns=NUMBERS,
        ),
    ),
    (
        STEPS,
        st.builds(
            events.StepReport,
            run=NAMES,
            step=st.integers(1, 2**40),
            total_steps=NUMBERS,
            metrics=VALUES,
            layer_grad_norms=VALUES,
            phase_seconds=VALUES,
            rollouts=st.lists(
                st.builds(
                    events.RolloutStatistics,
                    group_number=NUMBERS,
                    index=st.integers(0, 7),
                    mean_logprob=REALS,
                    mean_entropy=REALS,
                    clip_fraction=REALS,
                    mean_kl=REALS,
                ),
                max_size=3,
            ).map(tuple),
            num_completion_tokens=NUMBERS,
            num_groups=st.integers(0, 2**31 - 1),
            max_age=NUMBERS,
            created_ns=NUMBERS,
        ),
    ),
    (
        VERIFIERS,
        st.builds(
            events.VerifierState,
            run=NAMES,
            verifier=NAMES,
            version=TEXTS,
            mode=st.sampled_from(events.Mode),
            sources=st.lists(NAMES, max_size=3).map(tuple),
            num_scored=NUMBERS,
            num_restarts=NUMBERS,
            heartbeat_ns=NUMBERS,
        ),
    ),
    (
        DEAD_LETTERS,
        st.builds(
            events.DeadLetter,
            run=NAMES,
            topic=NAMES,
            partition=st.integers(0, 100),
            offset=NUMBERS,
            key=st.binary(max_size=10),
            value=st.binary(max_size=30),
            headers=st.dictionaries(NAMES, st.binary(max_size=10), max_size=3),
            error=TEXTS,
            part=NAMES,
            created_ns=NUMBERS,
        ),
    ),
)


def test_every_topic_has_a_property_test() -> None:
    assert [topic.name for topic, _ in EVENTS] == [topic.name for topic in ALL_TOPICS]


@pytest.mark.parametrize(("topic", "strategy"), EVENTS, ids=lambda value: getattr(value, "name", ""))
def test_an_event_comes_back_equal(topic: Topic[Any], strategy: st.SearchStrategy[Any]) -> None:
    @given(strategy)
    def check(event: object) -> None:
        data = topic.codec.encode(event)
        assert topic.codec.decode(data) == event
        assert topic.codec.encode(topic.codec.decode(data)) == data

    check()


@pytest.mark.parametrize("topic", ALL_TOPICS, ids=lambda topic: topic.name)
def test_junk_is_an_event_or_malformed_but_never_a_crash(topic: Topic[Any]) -> None:
    @given(st.binary(max_size=200))
    def check(data: bytes) -> None:
        try:
            event = topic.codec.decode(data)
        except MalformedEventError:
            return
        assert topic.codec.decode(topic.codec.encode(event)) == event

    check()


def test_a_rollout_with_fewer_logprobs_than_tokens_is_malformed() -> None:
    rollout = rollouts().filter(lambda candidate: len(candidate.completion_tokens) > 0)

    @given(rollout)
    def check(event: events.Rollout) -> None:
        broken = dataclasses.replace(event, logprobs=event.logprobs[:-1])
        with pytest.raises(MalformedEventError, match="logprobs"):
            ROLLOUTS.codec.decode(ROLLOUTS.codec.encode(broken))

    check()

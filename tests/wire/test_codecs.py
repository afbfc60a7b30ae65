"""Property tests of every codec: what is encoded comes back equal, and junk never becomes an event."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from google.protobuf.message import Message
from hypothesis import given, settings
from hypothesis import strategies as st

from event_strategies import (
    COMMAND_EVENTS,
    EVENTS,
    PART_EVENTS,
    PROMPT_EVENTS,
    REWARD_EVENTS,
    ROLLOUT_EVENTS,
    outcomes,
    sampled_segments,
)
from tristream.wire import events
from tristream.wire.arrays import LogProbs, Tokens
from tristream.wire.codecs.base import MalformedEventError, NotProtobufError
from tristream.wire.events import VersionSpan
from tristream.wire.topics import ALL_TOPICS, COMMANDS, OUTCOMES, PARTS, PROMPTS, REWARDS, ROLLOUTS, Topic

Mutation = Callable[[Any], object]


def with_segments(event: events.Rollout, *segments: events.Segment) -> bytes:
    """The event with these segments after a prompt."""
    return ROLLOUTS.codec.encode(replace(event, segments=(events.given(Tokens.of([1])), *segments)))


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


@pytest.mark.parametrize(("topic", "strategy"), EVENTS, ids=lambda value: getattr(value, "name", ""))
def test_a_damaged_event_is_an_event_or_malformed_but_never_a_crash(
    topic: Topic[Any], strategy: st.SearchStrategy[Any]
) -> None:
    """Junk that is nearly right gets further into a decoder than random bytes."""

    @given(strategy, st.integers(0), st.integers(1, 255))
    def check(event: object, position: int, change: int) -> None:
        data = bytearray(topic.codec.encode(event))
        data[position % len(data)] ^= change
        try:
            topic.codec.decode(bytes(data))
        except MalformedEventError:
            return

    check()


def test_bytes_that_are_no_message_are_told_from_messages_that_are_not_valid() -> None:
    with pytest.raises(NotProtobufError):
        ROLLOUTS.codec.decode(b"\xff\xff junk")
    with pytest.raises(MalformedEventError) as caught:
        ROLLOUTS.codec.decode(b"")
    assert not isinstance(caught.value, NotProtobufError)


@given(ROLLOUT_EVENTS, sampled_segments(min_tokens=1))
def test_a_sampled_segment_with_fewer_logprobs_than_tokens_is_malformed(
    event: events.Rollout, segment: events.Segment
) -> None:
    broken = replace(segment, logprobs=LogProbs(segment.logprobs.data[:-4]))
    with pytest.raises(MalformedEventError, match="logprobs"):
        ROLLOUTS.codec.decode(with_segments(event, broken))


@given(ROLLOUT_EVENTS, st.integers(-9, 9), st.integers(-9, 9))
def test_a_version_span_is_within_its_segment(event: events.Rollout, start: int, end: int) -> None:
    span = VersionSpan(version=1, start=start, end=end)
    data = with_segments(event, events.sampled(Tokens.of(range(5)), LogProbs.of([-1.0] * 5), (span,)))
    if 0 <= start < end <= 5:
        assert ROLLOUTS.codec.decode(data).segments[1].version_spans == (span,)
    else:
        with pytest.raises(MalformedEventError, match="is not within 5 tokens"):
            ROLLOUTS.codec.decode(data)


def add_logprobs(message: Any) -> None:
    message.logprobs.dtype, message.logprobs.data = "f4", bytes(4)


@given(ROLLOUT_EVENTS, st.sampled_from([add_logprobs, lambda message: message.version_spans.add(version=1, end=1)]))
def test_a_given_segment_with_logprobs_or_versions_is_malformed(event: events.Rollout, mutate: Mutation) -> None:
    message: Any = ROLLOUTS.codec.to_message(replace(event, segments=(events.given(Tokens.of([1])),)))
    mutate(message.segments[0])
    with pytest.raises(MalformedEventError, match="a given segment has log-probabilities or version spans"):
        ROLLOUTS.codec.decode(message.SerializeToString())


@pytest.mark.parametrize(
    ("mutate", "reason"),
    [
        (lambda segment: segment.ClearField("kind"), "segment_kind has no value 0"),
        (lambda segment: setattr(segment.tokens, "dtype", "i8"), "array has dtype 'i8', wanted 'i4'"),
        (lambda segment: setattr(segment.tokens, "data", b"12345"), "array of 5 bytes is not whole i4 elements"),
        (lambda segment: segment.ClearField("logprobs"), "array has dtype ''"),
        (lambda segment: segment.images.add(sha256="0", data=b"x"), "a sampled segment has images"),
    ],
)
def test_a_sampled_segment_that_lacks_or_contradicts_something_is_malformed(mutate: Mutation, reason: str) -> None:
    @settings(max_examples=10)
    @given(ROLLOUT_EVENTS, sampled_segments(min_tokens=1))
    def check(event: events.Rollout, segment: events.Segment) -> None:
        message: Any = ROLLOUTS.codec.to_message(replace(event, segments=(segment,)))
        mutate(message.segments[0])
        with pytest.raises(MalformedEventError, match=reason):
            ROLLOUTS.codec.decode(message.SerializeToString())

    check()


def clear(path: str) -> Mutation:
    """Unset a field, such as ``group.run``."""
    *parents, name = path.split(".")

    def mutate(message: Message) -> None:
        for parent in parents:
            message = getattr(message, parent)
        message.ClearField(name)

    return mutate


def of_kind(kind: events.CommandKind) -> st.SearchStrategy[events.Command]:
    """Commands of one kind."""
    return COMMAND_EVENTS.map(lambda command: replace(command, kind=kind))


def repeat_first_term(message: Any) -> None:
    message.reward.terms.append(message.reward.terms[0])


def drop_trained(message: Any) -> None:
    message.fate, message.drop_reason = 1, 1


@pytest.mark.parametrize(
    ("topic", "strategy", "mutate", "reason"),
    [
        (PROMPTS, PROMPT_EVENTS, repeat_first_term, "two terms of one id"),
        (PROMPTS, PROMPT_EVENTS, lambda m: m.reward.terms[0].ClearField("id"), "reward term has no id"),
        (PROMPTS, PROMPT_EVENTS, lambda m: m.reward.terms[0].ClearField("verifier"), "has no verifier"),
        (PROMPTS, PROMPT_EVENTS, lambda m: m.reward.terms[0].ClearField("version"), "has no version"),
        (PROMPTS, PROMPT_EVENTS, lambda m: m.reward.terms[0].ClearField("mode"), "term_mode has no value 0"),
        (PROMPTS, PROMPT_EVENTS, lambda m: m.reward.ClearField("terms"), "reward has no terms"),
        (PROMPTS, PROMPT_EVENTS, clear("messages"), "prompt has no messages"),
        (PROMPTS, PROMPT_EVENTS, clear("group.run"), "group has no run"),
        (PROMPTS, PROMPT_EVENTS, clear("progress"), "progress has no total_steps"),
        (ROLLOUTS, ROLLOUT_EVENTS, clear("finish_reason"), "finish_reason has no value 0"),
        (ROLLOUTS, ROLLOUT_EVENTS, lambda m: setattr(m, "index", m.group.size), "rollout has index"),
        (REWARDS, REWARD_EVENTS, clear("term_id"), "reward has no term_id"),
        (REWARDS, REWARD_EVENTS, clear("version"), "reward has no version"),
        (REWARDS, REWARD_EVENTS, clear("mode"), "term_mode has no value 0"),
        (REWARDS, REWARD_EVENTS, clear("status"), "status has no value 0"),
        (REWARDS, REWARD_EVENTS, lambda m: setattr(m, "index", m.group.size), "reward has index"),
        (OUTCOMES, outcomes().filter(lambda o: o.fate is events.Fate.DROPPED), clear("drop_reason"), "no value 0"),
        (OUTCOMES, outcomes(), drop_trained, "an outcome that is trained has a drop reason"),
        (OUTCOMES, outcomes(), lambda m: setattr(m, "fate", 99), "fate has no value 99"),
        (COMMANDS, COMMAND_EVENTS, clear("id"), r"command \w+ has no id"),
        (COMMANDS, of_kind(events.CommandKind.PROMOTE), clear("verifier"), "command promote has no verifier"),
        (COMMANDS, of_kind(events.CommandKind.PROMOTE), clear("version"), "command promote has no version"),
        (COMMANDS, of_kind(events.CommandKind.PAUSE_SOURCE), clear("sources"), "pause_source has no sources"),
        (COMMANDS, of_kind(events.CommandKind.RESUME_SOURCE), clear("sources"), "resume_source has no sources"),
        (COMMANDS, of_kind(events.CommandKind.EXTEND), clear("total_steps"), "extend has no total_steps"),
        (COMMANDS, COMMAND_EVENTS, clear("kind"), "command_kind has no value 0"),
        (PARTS, PART_EVENTS, clear("instance"), "part status has no instance"),
        (PARTS, PART_EVENTS, clear("part"), "part has no value 0"),
        (PARTS, PART_EVENTS, clear("state"), "part_state has no value 0"),
    ],
)
def test_an_event_that_lacks_or_contradicts_something_is_malformed(
    topic: Topic[Any], strategy: st.SearchStrategy[Any], mutate: Mutation, reason: str
) -> None:
    @settings(max_examples=10)
    @given(strategy)
    def check(event: object) -> None:
        message = topic.codec.to_message(event)
        mutate(message)
        with pytest.raises(MalformedEventError, match=reason):
            topic.codec.decode(message.SerializeToString())

    check()


@pytest.mark.parametrize("beginning", [events.sampled(Tokens.of([1]), LogProbs.of([-1.0]), ()), events.given(Tokens())])
@given(event=ROLLOUT_EVENTS)
def test_a_rollout_that_does_not_begin_with_given_tokens_is_malformed(
    beginning: events.Segment, event: events.Rollout
) -> None:
    with pytest.raises(MalformedEventError, match="does not begin with given tokens"):
        ROLLOUTS.codec.decode(ROLLOUTS.codec.encode(replace(event, segments=(beginning,))))

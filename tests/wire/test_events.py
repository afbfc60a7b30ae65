"""What events say of themselves, and the headers and keys that their records get."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings

from event_strategies import EVENTS, GROUPS, REWARD_EVENTS, ROLLOUT_EVENTS
from tristream.wire import events
from tristream.wire.arrays import LogProbs, Tokens
from tristream.wire.topics import ALL_TOPICS, PARTS, ROLLOUTS, Topic, record_headers
from tristream.wire.verifiers import canonical_name


def sample(versions: tuple[int, ...]) -> events.Segment:
    """A segment of one token a version."""
    spans = tuple(
        events.VersionSpan(version=version, start=start, end=start + 1) for start, version in enumerate(versions)
    )
    return events.sampled(Tokens.of(range(len(versions))), LogProbs.of([-1.0] * len(versions)), spans)


@settings(max_examples=10)
@given(ROLLOUT_EVENTS)
def test_a_rollout_of_two_turns_counts_what_was_given_and_what_was_sampled(event: events.Rollout) -> None:
    image = events.Image(media_type="image/png", sha256="0", size_bytes=1, data=b"x")
    turns = (events.given(Tokens.of([1, 2, 3]), (image,)), sample((4, 5)), events.given(Tokens.of([7])), sample((3,)))
    rollout = replace(event, segments=turns)
    assert (rollout.num_tokens, rollout.num_prompt_tokens, rollout.num_sampled_tokens) == (7, 3, 3)
    assert (rollout.oldest_version, rollout.newest_version) == (3, 5)
    assert rollout.images == (image,)
    failed = replace(event, segments=())
    assert (failed.num_tokens, failed.num_prompt_tokens, failed.oldest_version, failed.newest_version) == (0, 0, -1, -1)


@given(REWARD_EVENTS, GROUPS)
def test_a_reward_is_identified_by_rollout_term_and_version(event: events.Reward, group: events.Group) -> None:
    assert event.id == f"{event.group.id}/{event.index}|{event.term_id}|{event.version}"
    attempt = f".{group.eval_attempt}" if group.eval_attempt else ""
    eval_where = f"/eval-{group.eval_step}{attempt}/{group.number}"
    assert group.id == f"{group.run}" + (f"/{group.number}" if group.split is events.Split.TRAIN else eval_where)


@pytest.mark.parametrize(
    ("mode", "weight", "counts"),
    [
        (events.TermMode.ACTIVE, 0.5, True),
        (events.TermMode.ACTIVE, 0.0, False),
        (events.TermMode.SHADOW, 0.5, False),
    ],
)
def test_a_term_counts_if_it_is_active_and_weighs_something(mode: events.TermMode, weight: float, counts: bool) -> None:
    term = events.RewardTerm(id="math", verifier="math", version="1", weights={"accuracy": weight}, mode=mode)
    assert term.counts is counts


@pytest.mark.parametrize(("topic", "strategy"), EVENTS, ids=lambda value: getattr(value, "name", ""))
def test_every_record_names_the_contract_that_it_was_written_under(topic: Topic[Any], strategy: Any) -> None:
    @settings(max_examples=10)
    @given(strategy)
    def check(event: object) -> None:
        assert record_headers(topic, event)["contract"] == "2"

    check()


@settings(max_examples=10)
@given(ROLLOUT_EVENTS)
def test_the_record_of_a_rollout_names_each_verifier_version_once(event: events.Rollout) -> None:
    terms = [
        events.RewardTerm(id=name, verifier=verifier, version=version, weights={})
        for name, verifier, version in (("math", "math", "1"), ("ocr", "ocr", "2"), ("math-2", "math", "1"))
    ]
    spec = events.RewardSpec(terms=tuple(terms), ground_truth="4")
    headers = record_headers(ROLLOUTS, replace(event, reward=spec))
    assert headers == {"contract": "2", "verifiers": "math@1,ocr@2", "source": event.group.source}


def test_the_topics_are_named_once_and_the_part_statuses_are_kept_by_process() -> None:
    assert len({topic.name for topic in ALL_TOPICS}) == len(ALL_TOPICS)
    status = events.PartStatus(
        run="demo",
        part=events.Part.PRODUCER,
        instance="host-1",
        state=events.PartState.READY,
        since_ns=1,
        started_ns=1,
        created_ns=1,
    )
    assert (PARTS.key(status), PARTS.compacted) == ("producer/host-1", True)
    assert PARTS.full_name("tristream", "demo") == "tristream.demo.parts"


def test_an_alias_of_a_verifier_means_its_name() -> None:
    assert [canonical_name(name) for name in ("mathverify", "math", "mine")] == ["math", "math", "mine"]

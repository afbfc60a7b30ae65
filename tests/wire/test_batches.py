"""What the batch service carries comes back equal, images travel once, and half-filled batches are refused."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from event_strategies import BATCHES, COMMITS, GROUPS, IMAGES, LEDGERS, training_groups
from tristream.batches.v1 import batch_service_pb2
from tristream.wire import events
from tristream.wire.arrays import LogProbs, Tokens
from tristream.wire.batches import Batch, Commit, NotReady, TrainingGroup, TrainingRollout
from tristream.wire.codecs.base import MalformedEventError
from tristream.wire.codecs.batches import (
    batch_from_message,
    batch_to_message,
    commit_from_json,
    commit_from_message,
    commit_to_json,
    commit_to_message,
    training_group_from_message,
    training_group_to_message,
)
from tristream.wire.codecs.ledgers import ledger_from_message, ledger_to_message
from tristream.wire.events import Ledger


@given(BATCHES)
def test_a_batch_comes_back_equal(batch: Batch) -> None:
    message = batch_service_pb2.NextBatchResponse.FromString(batch_to_message(batch).SerializeToString())
    assert batch_from_message(message, step=batch.step, rank=batch.rank) == batch


def test_a_batch_that_is_not_there_says_what_it_waits_for() -> None:
    waiting = NotReady(waiting_for="3 rewards of verifier math")
    assert batch_from_message(batch_to_message(waiting), step=1, rank=0) == waiting


@given(training_groups())
def test_the_segments_of_a_group_share_its_images(group: TrainingGroup) -> None:
    message = training_group_to_message(group)
    assert len(message.images) == len({image.sha256 for rollout in group.rollouts for image in rollout.images})
    for rollout in message.rollouts:
        assert not any(image.data or image.uri for segment in rollout.segments for image in segment.images)
    assert training_group_from_message(message) == group


@given(GROUPS, IMAGES)
def test_an_image_that_did_not_come_with_its_group_is_malformed(group: events.Group, image: events.Image) -> None:
    segments = (
        events.given(Tokens.of([1]), (image,)),
        events.sampled(Tokens.of([2]), LogProbs.of([-1.0]), ()),
    )
    rollout = TrainingRollout(index=0, segments=segments, temperature=1.0)
    message = training_group_to_message(TrainingGroup(group=group, rollouts=(rollout,)))
    del message.images[:]
    with pytest.raises(MalformedEventError, match="group has no image"):
        training_group_from_message(message)


def clear_sampled(message: Any) -> None:
    for segment in message.groups[0].rollouts[0].segments:
        segment.kind = 1
        segment.ClearField("logprobs")
        segment.ClearField("version_spans")


@pytest.mark.parametrize(
    ("mutate", "reason"),
    [
        (lambda message: message.ClearField("num_global_tokens"), "batch has 0 global tokens"),
        (lambda message: message.groups[0].rollouts[0].ClearField("temperature"), "has temperature 0"),
        (clear_sampled, "has no sampled segment"),
        (lambda message: message.outcomes.add(), "fate has no value 0"),
        (lambda message: message.position.offsets.add(partition=1), "partition offset has no topic"),
    ],
)
def test_a_half_filled_batch_is_malformed(mutate: Any, reason: str) -> None:
    @settings(max_examples=10, suppress_health_check=[HealthCheck.filter_too_much])
    @given(BATCHES.filter(lambda batch: any(group.rollouts for group in batch.groups)))
    def check(batch: Batch) -> None:
        groups = tuple(group for group in batch.groups if group.rollouts)
        message = batch_to_message(replace(batch, groups=groups))
        mutate(message)
        with pytest.raises(MalformedEventError, match=reason):
            batch_from_message(message, step=batch.step, rank=batch.rank)

    check()


@given(LEDGERS)
def test_a_ledger_comes_back_equal(ledger: Ledger) -> None:
    assert ledger_from_message(ledger_to_message(ledger)) == ledger


@given(COMMITS)
def test_a_commit_comes_back_equal_from_the_wire_and_from_a_checkpoint(commit: Commit) -> None:
    assert commit_from_message(commit_to_message(commit)) == commit
    assert commit_from_json(commit_to_json(commit)) == commit


@given(st.text(max_size=50) | st.sampled_from(['{"steps": [{"outcomes": [{}]}]}', '{"ledger": {"step": "-1"}}', "[]"]))
def test_a_text_that_is_no_commit_is_malformed_but_never_a_crash(text: str) -> None:
    try:
        commit = commit_from_json(text)
    except MalformedEventError:
        return
    assert commit == Commit(ledger=Ledger(step=0))


@given(training_groups())
def test_what_a_rollout_holds_is_counted_over_its_segments(group: TrainingGroup) -> None:
    for rollout in group.rollouts:
        sampled = [segment for segment in rollout.segments if segment.is_sampled]
        assert rollout.num_sampled_tokens == sum(len(segment.logprobs) for segment in sampled) >= 1
        assert rollout.num_tokens == sum(len(segment.tokens.to_list()) for segment in rollout.segments)

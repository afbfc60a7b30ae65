import random
from dataclasses import replace

import pytest

from scratch_batches import ScratchBatches
from tristream.learner.standing import Standing, explain_refusal, settle
from tristream.wire.batches import Batch
from tristream.wire.events import Interval, Ledger, LogPosition, PartitionOffset, PolicyVersion, Weights
from tristream.wire.ledger import number_checksum
from tristream.wire.topics import POLICY

NUM_GROUPS = 1_000_000
GROUPS_PER_STEP = 256
NUM_IN_FLIGHT = 4 * GROUPS_PER_STEP
DROPPED_SHARE = 0.3
MOST_EVENT_BYTES = 64 * 1024


def batch_of(step: int) -> Batch:
    return ScratchBatches().batch(step)


def ledger_before(step: int) -> Ledger:
    standing = Standing()
    for earlier in range(1, step):
        batch = batch_of(earlier)
        standing = standing.after_step(batch, batch.outcomes, epoch=3)
    return standing.ledger


def test_a_step_settles_what_it_trains_and_what_was_dropped_and_counts_the_drops() -> None:
    ledger = ledger_before(4)
    assert ledger.settled == (Interval(start=0, end=9),)
    assert ledger.num_dropped == 3
    assert ledger.dropped_checksum == number_checksum([2, 5, 8])
    assert (ledger.step, ledger.epoch) == (3, 3)
    assert ledger.position == batch_of(3).position


def test_the_checksum_of_drops_does_not_depend_on_the_steps_in_which_they_came() -> None:
    one = settle(Ledger(step=0), 1, (0,), (7, 3, 5), LogPosition(), epoch=1)
    two = settle(settle(Ledger(step=0), 1, (0,), (5,), LogPosition(), epoch=1), 2, (), (3, 7), LogPosition(), epoch=1)
    assert one.dropped_checksum == two.dropped_checksum
    assert one.num_dropped == two.num_dropped == 3


def test_a_batch_that_follows_is_taken() -> None:
    assert explain_refusal(ledger_before(3), batch_of(3), 2) == ""


def settling_again(batch: Batch) -> Batch:
    return replace(batch, dropped=(*batch.dropped, 0))


def training_again(batch: Batch) -> Batch:
    again = batch_of(1)
    return replace(batch, groups=(again.groups[0], batch.groups[1]), outcomes=(again.outcomes[0], batch.outcomes[1]))


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda batch: replace(batch, step=4), "it is of step 4, and step 3 is to be trained"),
        (lambda batch: replace(batch, outcomes=batch.outcomes[:1]), "it has 1 groups, and a step has 2"),
        (lambda batch: replace(batch, outcomes=(batch.outcomes[0],) * 2), "it settles group 6 twice"),
        (lambda batch: replace(batch, dropped=(7,)), "it settles group 7 twice"),
        (lambda batch: replace(batch, dropped=(8, 8)), "it settles group 8 twice"),
        (training_again, "it settles group 0, which an earlier step settled"),
        (settling_again, "it settles group 0, which an earlier step settled"),
        (
            lambda batch: replace(batch, groups=batch_of(4).groups),
            "it has rollouts of groups 9, 10, of which it has no",
        ),
        (lambda batch: replace(batch, dropped=tuple(range(6))), "groups 0, 1, 2, 3, 4 and 1 more, which an earlier"),
    ],
)
def test_a_batch_that_must_not_be_trained_is_refused_in_words(spoil: object, words: str) -> None:
    assert callable(spoil)
    assert words in explain_refusal(ledger_before(3), spoil(batch_of(3)), 2)


@pytest.mark.slow
def test_a_policy_event_stays_small_over_a_million_groups() -> None:
    """Groups settle in any order within what is in flight, and three of ten are dropped."""
    generator = random.Random(1)
    ledger, next_number, largest, num_dropped = Ledger(step=0), 0, 0, 0
    in_flight: list[int] = []
    position = LogPosition(
        log_id="0" * 32,
        offsets=tuple(
            PartitionOffset(topic=topic, partition=number, offset=2**40)
            for topic in ("rollouts", "rewards")
            for number in range(64)
        ),
    )
    while next_number < NUM_GROUPS:
        while len(in_flight) < NUM_IN_FLIGHT:
            in_flight.append(next_number)
            next_number += 1
        generator.shuffle(in_flight)
        dropped: list[int] = []
        trained: list[int] = []
        while len(trained) < GROUPS_PER_STEP and in_flight:
            (dropped if generator.random() < DROPPED_SHARE else trained).append(in_flight.pop())
        ledger = settle(ledger, ledger.step + 1, trained, dropped, position, epoch=1)
        num_dropped += len(dropped)
        weights = Weights(version=ledger.step, uri="s3://bucket/run/weights", sha256="0" * 64)
        event = PolicyVersion(run="soak", weights=weights, total_steps=10**6, durable=ledger, created_ns=1)
        largest = max(largest, len(POLICY.codec.encode(event)))
    assert ledger.num_dropped == num_dropped > 250_000
    assert largest < MOST_EVENT_BYTES

"""From records to rewards and dead letters, with a real pool and no broker."""

import asyncio
import json
from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

import pytest
from builders import RUN, make_rollout
from misbehaving_verifiers import MISBEHAVING

from tristream.runtime.store import BlobError
from tristream.verifiers.registry import VERIFIERS
from tristream.verifiers.service.pool import Pool, PoolError
from tristream.verifiers.service.scoring import MAX_DEAD_LETTER_BYTES, RawRecord, RolloutScorer
from tristream.wire.events import DeadLetter, Reward, Rollout, Status
from tristream.wire.topics import DEAD_LETTERS, REWARDS, ROLLOUTS, Topic

EventT = TypeVar("EventT")

SERVED = {"math": VERIFIERS["math"], **MISBEHAVING}


class Outbox:
    """Keeps what is published."""

    def __init__(self) -> None:
        self.rewards: list[Reward] = []
        self.letters: list[DeadLetter] = []

    async def publish(self, topic: Topic[EventT], event: EventT) -> None:
        assert topic.codec.decode(topic.codec.encode(event)) == event
        if isinstance(event, Reward):
            assert topic.name == REWARDS.name
            self.rewards.append(event)
        elif isinstance(event, DeadLetter):
            assert topic.name == DEAD_LETTERS.name
            self.letters.append(event)


@pytest.fixture(scope="module")
def pool() -> Iterator[Pool]:
    pool = Pool(SERVED, num_processes=1, deadline_seconds=1.0)
    pool.start()
    yield pool
    pool.stop()


def to_record(rollout: Rollout) -> RawRecord:
    headers = {name: value.encode() for name, value in ROLLOUTS.headers(rollout).items()}
    return RawRecord(
        partition=2, offset=7, key=ROLLOUTS.key(rollout).encode(), value=ROLLOUTS.codec.encode(rollout), headers=headers
    )


def handle(pool: Pool, records: Sequence[RawRecord], **options: Any) -> tuple[RolloutScorer, Outbox]:
    outbox = Outbox()
    scorer = RolloutScorer(SERVED, pool, outbox.publish, run=RUN, **options)
    asyncio.run(scorer.handle(records))
    return scorer, outbox


def test_a_rollout_gets_a_reward_with_its_identity_version_and_parameters(pool: Pool) -> None:
    rollout = make_rollout("x", "x", number=4)
    scorer, outbox = handle(pool, [to_record(rollout)])
    (reward,) = outbox.rewards
    assert (reward.group, reward.index) == (rollout.group, rollout.index)
    assert reward.id == f"{rollout.id}|misbehaving|7"
    assert (reward.status, reward.components) == (Status.SCORED, {"accuracy": 1.0})
    assert json.loads(reward.params_json) == {"step": 12}
    assert reward.queued_seconds >= 0
    assert reward.score_seconds > 0
    assert scorer.num_scored == {"misbehaving": 1}


def test_each_served_term_gets_one_reward_under_the_name_it_asked_for(pool: Pool) -> None:
    terms = [("mathverify", "{}"), ("misbehaving", "{}"), ("detection", "{}"), ("mathverify", '{"again": 1}')]
    _, outbox = handle(pool, [to_record(make_rollout(r"\boxed{4}", "4", terms=terms))])
    assert sorted(reward.verifier for reward in outbox.rewards) == ["mathverify", "misbehaving"]
    assert next(reward for reward in outbox.rewards if reward.verifier == "mathverify").components["accuracy"] == 1.0


def test_of_two_texts_of_one_rollout_only_the_first_on_the_log_is_judged(pool: Pool) -> None:
    texts = ["raise", "x"]
    for first, second in (texts, reversed(texts)):
        records = [to_record(make_rollout(text, number=4)) for text in (first, second)]
        _, outbox = handle(pool, [*records, to_record(make_rollout("x", number=5))])
        (judged,) = [reward for reward in outbox.rewards if reward.group.number == 4]
        assert judged.status is (Status.ERROR if first == "raise" else Status.SCORED)
        assert len(outbox.rewards) == 2


def test_failures_become_statuses_without_numbers(pool: Pool) -> None:
    texts = ["hang", "crash", "raise", "unscorable", "x"]
    scorer, outbox = handle(pool, [to_record(make_rollout(text, number=n)) for n, text in enumerate(texts)])
    by_number = {reward.group.number: reward for reward in outbox.rewards}
    statuses = [by_number[number].status for number in range(5)]
    assert statuses == [Status.TIMEOUT, Status.ERROR, Status.ERROR, Status.UNSCORABLE, Status.SCORED]
    assert all(not by_number[number].components and by_number[number].detail for number in range(4))
    assert scorer.num_by_status == {Status.TIMEOUT: 1, Status.ERROR: 2, Status.UNSCORABLE: 1, Status.SCORED: 1}


@pytest.mark.parametrize("params", ["[1]", "{", "null", '"text"'])
def test_parameters_that_are_no_object_are_unscorable(pool: Pool, params: str) -> None:
    _, outbox = handle(pool, [to_record(make_rollout("x", terms=[("misbehaving", params)]))])
    assert [reward.status for reward in outbox.rewards] == [Status.UNSCORABLE]
    assert "parameters" in outbox.rewards[0].detail


def test_records_for_others_and_barriers_are_skipped_without_decoding(pool: Pool) -> None:
    garbage = b"\xff\xff"
    other = RawRecord(partition=0, offset=0, key=b"k", value=garbage, headers={"verifiers": b"ocr,detection"})
    barrier = RawRecord(partition=0, offset=1, key=b"barrier", value=None, headers={"tristream-barrier": b"t"})
    scorer, outbox = handle(pool, [other, barrier])
    assert not scorer.wants(other)
    assert not scorer.wants(barrier)
    assert (outbox.rewards, outbox.letters) == ([], [])


def test_an_undecodable_record_becomes_a_dead_letter_with_its_reason(pool: Pool) -> None:
    record = RawRecord(partition=2, offset=9, key=b"k", value=b"\xff\xff", headers={"verifiers": b"mathverify"})
    scorer, outbox = handle(pool, [record, to_record(make_rollout("x"))])
    (letter,) = outbox.letters
    assert (letter.topic, letter.partition, letter.offset, letter.key) == ("rollouts", 2, 9, b"k")
    assert (letter.value, letter.headers, letter.part) == (b"\xff\xff", {"verifiers": b"mathverify"}, "verifier")
    assert "not protobuf" in letter.error
    assert (scorer.num_dead_letters, len(outbox.rewards)) == (1, 1)


def test_a_huge_dead_letter_is_cut(pool: Pool) -> None:
    record = RawRecord(partition=0, offset=0, key=b"k", value=b"\xff" * (MAX_DEAD_LETTER_BYTES + 5), headers={})
    _, outbox = handle(pool, [record])
    assert len(outbox.letters[0].value) == MAX_DEAD_LETTER_BYTES
    assert f"cut from {MAX_DEAD_LETTER_BYTES + 5} bytes" in outbox.letters[0].error


def test_parameters_are_completed_before_scoring(pool: Pool) -> None:
    async def refuse(_rollout: Rollout, _params: dict[str, Any]) -> dict[str, Any]:
        raise ValueError("no image")

    async def fail(_rollout: Rollout, _params: dict[str, Any]) -> dict[str, Any]:
        raise BlobError("image gone")

    record = to_record(make_rollout("x"))
    statuses = [handle(pool, [record], prepare_params=prepare)[1].rewards[0].status for prepare in (refuse, fail)]
    assert statuses == [Status.UNSCORABLE, Status.ERROR]


def test_a_broken_pool_is_an_error_of_the_worker_not_of_the_rollout() -> None:
    pool = Pool(MISBEHAVING, num_processes=1, deadline_seconds=1.0)
    pool.start()
    pool.stop()
    with pytest.raises(PoolError):
        handle(pool, [to_record(make_rollout("x"))])

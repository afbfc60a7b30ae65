"""From records to rewards and dead letters, with a real pool and the bus in memory."""

import asyncio
import json
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import replace
from typing import Any

import pytest
from builders import RUN, make_rollout, make_term
from misbehaving_verifiers import MisbehavingVerifier

from tristream.runtime.bus.memory import MemoryBus
from tristream.runtime.bus.protocol import BusError, Record
from tristream.runtime.errors import UserError
from tristream.runtime.store import BlobError
from tristream.verifiers.registry import VERIFIERS, by_versioned_name
from tristream.verifiers.service.answers import ANSWERS
from tristream.verifiers.service.pool import Pool, PoolError
from tristream.verifiers.service.scoring import RolloutScorer
from tristream.wire.arrays import Tokens
from tristream.wire.events import DeadLetter, FinishReason, Image, Reward, Rollout, Status, TermMode, given
from tristream.wire.topics import DEAD_LETTERS, REWARDS, ROLLOUTS, Topic, record_headers

SERVED = by_versioned_name([VERIFIERS["math"], MisbehavingVerifier])
OUR_CONTRACT = {"contract": b"2"}


class Outbox:
    """Reads what is published."""

    def __init__(self) -> None:
        self.bus = MemoryBus(RUN, part="verifier")

    @property
    def rewards(self) -> list[Reward]:
        return [record.event for record in self.bus.reader([REWARDS]).read_to_end()]

    @property
    def letters(self) -> list[DeadLetter]:
        return [record.event for record in self.bus.reader([DEAD_LETTERS]).read_to_end()]


@pytest.fixture(scope="module")
def pool() -> Iterator[Pool]:
    pool = Pool(SERVED, num_processes=1, deadline_seconds=1.0)
    pool.start()
    yield pool
    pool.stop()


def raw(value: bytes, headers: Mapping[str, bytes], *, key: str = "k", offset: int = 0) -> Record[bytes]:
    return Record(topic=ROLLOUTS.name, partition=2, offset=offset, key=key, event=value, headers=headers)


def to_record(rollout: Rollout) -> Record[bytes]:
    headers = {name: value.encode() for name, value in record_headers(ROLLOUTS, rollout).items()}
    return raw(ROLLOUTS.codec.encode(rollout), headers, key=ROLLOUTS.key(rollout), offset=7)


def to_foreign_record(rollout: Rollout) -> Record[bytes]:
    record = to_record(rollout)
    return raw(record.event, {"verifiers": b"math"}, key=record.key)


def handle(pool: Pool, records: Sequence[Record[bytes]], **options: Any) -> tuple[RolloutScorer, Outbox]:
    outbox = Outbox()
    scorer = RolloutScorer(SERVED, pool, outbox.bus, **options)
    asyncio.run(scorer.handle(records))
    return scorer, outbox


def test_a_rollout_gets_a_reward_with_its_identity_version_and_parameters(pool: Pool) -> None:
    rollout = make_rollout("x", "x", number=4, terms=[make_term(term_id="exact")])
    scorer, outbox = handle(pool, [to_record(rollout)])
    (reward,) = outbox.rewards
    assert (reward.group, reward.index) == (rollout.group, rollout.index)
    assert reward.id == f"{rollout.id}|exact|7"
    assert (reward.verifier, reward.version, reward.mode) == ("misbehaving", "7", TermMode.ACTIVE)
    assert (reward.status, reward.components) == (Status.SCORED, {"accuracy": 1.0})
    assert json.loads(reward.params_json) == {"step": 12}
    assert reward.queued_seconds >= 0
    assert reward.score_seconds > 0
    assert scorer.num_scored == {"misbehaving@7": 1}


def test_each_term_of_a_served_version_gets_one_reward(pool: Pool) -> None:
    terms = [
        make_term("math", "1", term_id="math"),
        make_term("misbehaving"),
        make_term("detection", "1"),
        make_term("math", "1", term_id="math-2", params_json="[]"),
        make_term("math", "2", term_id="math-3"),
    ]
    _, outbox = handle(pool, [to_record(make_rollout(r"\boxed{4}", "4", terms=terms))])
    statuses = {reward.term_id: reward.status for reward in outbox.rewards}
    assert statuses == {"math": Status.SCORED, "misbehaving": Status.SCORED, "math-2": Status.UNSCORABLE}
    assert len(outbox.rewards) == 3


def test_a_shadow_term_is_scored_and_marked(pool: Pool) -> None:
    terms = [make_term(term_id="live"), make_term(term_id="trial", mode=TermMode.SHADOW)]
    _, outbox = handle(pool, [to_record(make_rollout("x", terms=terms))])
    assert {reward.term_id: (reward.mode, reward.components["accuracy"]) for reward in outbox.rewards} == {
        "live": (TermMode.ACTIVE, 1.0),
        "trial": (TermMode.SHADOW, 1.0),
    }


def test_a_worker_of_another_version_scores_nothing(pool: Pool) -> None:
    record = to_record(make_rollout("x", terms=[make_term(version="8")]))
    scorer, outbox = handle(pool, [record])
    assert not scorer.wants(record)
    _, without_header = handle(pool, [raw(record.event, OUR_CONTRACT, key=record.key)])
    assert (outbox.rewards, without_header.rewards) == ([], [])


def test_of_two_texts_of_one_rollout_only_the_first_on_the_log_is_judged(pool: Pool) -> None:
    texts = ["raise", "x"]
    terms = [make_term(term_id="one"), make_term(term_id="two")]
    for first, second in (texts, reversed(texts)):
        records = [to_record(make_rollout(text, number=4, terms=terms)) for text in (first, second)]
        _, outbox = handle(pool, [*records, to_record(make_rollout("x", number=5))])
        judged = [reward.status for reward in outbox.rewards if reward.group.number == 4]
        assert judged == [Status.ERROR if first == "raise" else Status.SCORED] * 2
        assert len(outbox.rewards) == 3


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
    _, outbox = handle(pool, [to_record(make_rollout("x", terms=[make_term(params_json=params)]))])
    assert [reward.status for reward in outbox.rewards] == [Status.UNSCORABLE]
    assert "parameters" in outbox.rewards[0].detail


def test_records_for_others_and_barriers_are_skipped_without_decoding(pool: Pool) -> None:
    others = raw(b"\xff\xff", {**OUR_CONTRACT, "verifiers": b"ocr@1,math@2,misbehaving"})
    barrier = raw(b"", {"tristream-barrier": b"t"})
    _, outbox = handle(pool, [others, barrier])
    assert (outbox.rewards, outbox.letters) == ([], [])


def test_an_undecodable_record_becomes_a_dead_letter_with_its_reason(pool: Pool) -> None:
    headers = {**OUR_CONTRACT, "verifiers": b"ocr@1,math@1"}
    scorer, outbox = handle(pool, [raw(b"\xff\xff", headers, offset=9), to_record(make_rollout("x"))])
    (letter,) = outbox.letters
    assert (letter.topic, letter.partition, letter.offset, letter.key) == ("rollouts", 2, 9, b"k")
    assert (letter.value, letter.headers, letter.part) == (b"\xff\xff", headers, "verifier")
    assert "not protobuf" in letter.error
    assert (scorer.num_dead_letters, len(outbox.rewards)) == (1, 1)


def test_a_record_of_another_contract_becomes_a_dead_letter(pool: Pool) -> None:
    ours = to_record(make_rollout("x", number=1))
    scorer, outbox = handle(pool, [ours, to_foreign_record(make_rollout("x", number=2))])
    (letter,) = outbox.letters
    assert "contract 1" in letter.error
    assert [reward.group.number for reward in outbox.rewards] == [1]
    assert scorer.num_dead_letters == 1


def test_a_log_begun_under_another_contract_is_refused(pool: Pool) -> None:
    with pytest.raises(UserError, match="contract 1"):
        handle(pool, [to_foreign_record(make_rollout("x"))])


def test_parameters_are_completed_before_scoring(pool: Pool) -> None:
    async def refuse(_rollout: Rollout, _params_json: str) -> str:
        raise ValueError("no image")

    async def fail(_rollout: Rollout, _params_json: str) -> str:
        raise BlobError("image gone")

    async def break_down(_rollout: Rollout, _params_json: str) -> str:
        raise KeyError("a bug")

    record = to_record(make_rollout("x"))
    rewards = [handle(pool, [record], complete_params=fault)[1].rewards for fault in (refuse, fail, break_down)]
    assert [[reward.status for reward in found] for found in rewards] == [
        [Status.UNSCORABLE],
        [Status.ERROR],
        [Status.ERROR],
    ]
    assert "no image" in rewards[0][0].detail


def test_a_rollout_in_hand_keeps_its_images_and_no_arrays() -> None:
    image = Image(media_type="image/png", sha256="0", size_bytes=1, data=b"x")
    rollout = make_rollout("x", images=(image,), num_tokens=2000)
    held = ANSWERS.codec.decode(ROLLOUTS.codec.encode(rollout))
    assert held == replace(rollout, segments=(given(Tokens(), (image,)),))


def test_each_poison_gets_one_reward_or_one_dead_letter_and_the_next_rollout_is_scored(pool: Pool) -> None:
    deep = make_term(params_json="[" * 100_000)
    usual = to_record(make_rollout("x"))
    records = [
        to_record(make_rollout("huge", number=1)),
        to_record(make_rollout("surrogate detail", number=2)),
        to_record(make_rollout("x", number=3, terms=[deep])),
        to_record(make_rollout("", number=4)),
        raw(usual.event[:-3], usual.headers),
        raw(b"", OUR_CONTRACT),
        raw(b"\xff" * 100, {**OUR_CONTRACT, "verifiers": b"\xff,misbehaving@7"}),
        to_record(make_rollout("x", number=9)),
    ]
    scorer, outbox = handle(pool, records)
    statuses = {reward.group.number: reward.status for reward in outbox.rewards}
    error, unscorable, scored = Status.ERROR, Status.UNSCORABLE, Status.SCORED
    assert statuses == {1: error, 2: error, 3: unscorable, 4: scored, 9: scored}
    assert len(outbox.rewards) == 5
    assert scorer.num_dead_letters == len(outbox.letters) == 3
    (too_large,) = [reward for reward in outbox.rewards if reward.group.number == 1]
    assert "fit" in too_large.detail
    assert (too_large.components, too_large.params_json) == ({}, "{}")


def test_the_answer_of_a_failed_rollout_is_judged_as_empty(pool: Pool) -> None:
    failed = replace(make_rollout("", "x"), segments=(), finish_reason=FinishReason.ERROR, error="a bomb")
    _, outbox = handle(pool, [to_record(failed)])
    assert [(reward.status, reward.components) for reward in outbox.rewards] == [(Status.SCORED, {"accuracy": 0.0})]


def test_a_broker_that_refuses_a_reward_ends_the_handling(pool: Pool) -> None:
    class RefusingBus(MemoryBus):
        def publish(self, topic: Topic[Any], event: Any) -> "Future[None]":
            if topic is REWARDS:
                raise BusError("refused")
            return super().publish(topic, event)

    scorer = RolloutScorer(SERVED, pool, RefusingBus(RUN))
    with pytest.raises(BusError, match="refused"):
        asyncio.run(scorer.handle([to_record(make_rollout("x"))]))


def test_a_broken_pool_is_an_error_of_the_worker_not_of_the_rollout() -> None:
    pool = Pool(SERVED, num_processes=1, deadline_seconds=1.0)
    pool.start()
    pool.stop()
    with pytest.raises(PoolError):
        handle(pool, [to_record(make_rollout("x"))])

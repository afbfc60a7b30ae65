"""From records to rewards and dead letters, with a real pool and the bus in memory."""

import json
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from dataclasses import replace
from typing import Any

import pytest
from builders import PLUG_INS, RUN, make_rollout, make_term
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scoring_stage import OUR_CONTRACT, ScoringStage, raw, to_foreign_record, to_record

from tristream.runtime.bus.memory import MemoryBus
from tristream.runtime.bus.protocol import BusError, Record
from tristream.runtime.errors import UserError
from tristream.runtime.store import BlobError
from tristream.verifiers.pool.pool import Pool
from tristream.verifiers.pool.tasks import PoolError
from tristream.verifiers.service.answers import ANSWERS
from tristream.verifiers.service.preparing import Preparer
from tristream.wire.arrays import Tokens
from tristream.wire.events import FinishReason, Image, Message, Rollout, Status, TermMode
from tristream.wire.events import given as given_segment
from tristream.wire.topics import REWARDS, ROLLOUTS, Topic
from tristream.wire.verifiers import BUILT_IN_VERSIONS

DETECTION, MATH = BUILT_IN_VERSIONS["detection"], BUILT_IN_VERSIONS["math"]
BOX = '[{"bbox_2d": [0, 0, 10, 10], "label": "cat"}]'


@pytest.fixture(scope="module")
def pool() -> Iterator[Pool]:
    pool = Pool({f"math@{MATH}": "", f"detection@{DETECTION}": "", **PLUG_INS}, num_processes=1)
    pool.start()
    yield pool
    pool.stop()


def score(pool: Pool, *rollouts: Rollout, **options: Any) -> ScoringStage:
    stage = ScoringStage(pool, options=options)
    stage.take_rollouts(*rollouts)
    return stage.finish()


def test_a_rollout_gets_a_reward_with_its_identity_version_and_parameters(pool: Pool) -> None:
    term = make_term(term_id="exact", params_json='{"step_size": 3}')
    rollout = make_rollout("x", "x", number=4, terms=[term])
    stage = score(pool, rollout)
    (reward,) = stage.rewards
    assert (reward.group, reward.index) == (rollout.group, rollout.index)
    assert reward.id == f"{rollout.id}|exact|7"
    assert (reward.verifier, reward.version, reward.mode) == ("deed", "7", TermMode.ACTIVE)
    assert (reward.status, reward.components) == (Status.SCORED, {"accuracy": 1.0})
    assert json.loads(reward.params_json) == {"step_size": 3}
    assert reward.queued_seconds >= 0
    assert reward.score_seconds > 0
    assert stage.scorer.num_scored == {"deed@7": 1}


def test_each_term_of_a_served_version_gets_one_reward(pool: Pool) -> None:
    terms = [
        make_term("math", MATH, term_id="math"),
        make_term("deed"),
        make_term("detection", "0"),
        make_term("math", MATH, term_id="math-2", params_json="[]"),
        make_term("math", "0", term_id="math-3"),
    ]
    stage = score(pool, make_rollout(r"\boxed{4}", "4", terms=terms))
    statuses = {reward.term_id: reward.status for reward in stage.rewards}
    assert statuses == {"math": Status.SCORED, "deed": Status.SCORED, "math-2": Status.UNSCORABLE}
    assert len(stage.rewards) == 3


def test_two_terms_of_one_verifier_are_scored_each_by_its_own_parameters(pool: Pool) -> None:
    terms = [make_term(term_id=f"deed-{size}", params_json=f'{{"step_size": {size}}}') for size in (1, 2)]
    rewards = score(pool, make_rollout("x", terms=terms)).rewards
    assert {reward.term_id: json.loads(reward.params_json)["step_size"] for reward in rewards} == {
        "deed-1": 1,
        "deed-2": 2,
    }


def test_a_shadow_term_is_scored_and_marked(pool: Pool) -> None:
    terms = [make_term(term_id="trial", mode=TermMode.SHADOW), make_term(term_id="live")]
    rewards = score(pool, make_rollout("x", terms=terms)).rewards
    assert {reward.term_id: (reward.mode, reward.components["accuracy"]) for reward in rewards} == {
        "live": (TermMode.ACTIVE, 1.0),
        "trial": (TermMode.SHADOW, 1.0),
    }
    assert [reward.term_id for reward in rewards] == ["live", "trial"], "what counts is not behind what does not"


def test_a_worker_of_another_version_scores_nothing(pool: Pool) -> None:
    record = to_record(make_rollout("x", terms=[make_term(version="9")]))
    stage = ScoringStage(pool)
    assert not stage.serving.may_want(record.headers, 0)
    stage.take(record, raw(record.event, OUR_CONTRACT, key=record.key))
    assert stage.finish().rewards == []


def test_of_two_texts_of_one_rollout_only_the_first_is_judged(pool: Pool) -> None:
    texts = ["raise", "x"]
    terms = [make_term(term_id="one"), make_term(term_id="two")]
    for first, second in (texts, list(reversed(texts))):
        answers = [make_rollout(text, number=4, terms=terms) for text in (first, second)]
        stage = score(pool, *answers, make_rollout("x", number=5))
        judged = [reward.status for reward in stage.rewards if reward.group.number == 4]
        assert judged == [Status.ERROR if first == "raise" else Status.SCORED] * 2
        assert len(stage.rewards) == 3


def test_a_verifier_sees_all_of_a_rollout_that_the_contract_promises(pool: Pool) -> None:
    rollout = make_rollout(
        "what is seen",
        num_tokens=5,
        messages=(Message(role="user", content="why <image>?"),),
        columns_json='{"ability": "sight"}',
        images=(Image(media_type="image/png", sha256="0a", size_bytes=1, data=b"x"),),
    )
    (reward,) = score(pool, rollout).rewards
    assert json.loads(reward.params_json) == {
        "step_size": 1,
        "messages": [["user", "why <image>?"]],
        "columns": {"ability": "sight"},
        "tokens": [3, 5],
        "place": ["shapes", "s0", "train", 3, "stop"],
        "images": [["0a", 0]],
    }


def test_the_bytes_of_images_go_to_verifiers_that_need_them(pool: Pool) -> None:
    images = tuple(Image(media_type="image/png", sha256=f"{n}", size_bytes=9, uri=f"u{n}") for n in range(2))
    terms = [make_term("looker", "1"), make_term()]

    def read(image: Image) -> bytes:
        if image.uri == "u1" and not is_there:
            raise BlobError("image gone")
        return image.uri.encode() * 10

    is_there = True
    rewards = {
        reward.verifier: reward
        for reward in score(pool, make_rollout("x", images=images, terms=terms), preparer=Preparer(read)).rewards
    }
    assert rewards["looker"].metrics == {"num_bytes": 40.0, "num_images": 2.0}
    assert rewards["deed"].status is Status.SCORED
    is_there = False
    stage = score(pool, make_rollout("x", images=images, terms=terms), preparer=Preparer(read))
    assert {r.verifier: (r.status, r.detail) for r in stage.rewards} == {
        "looker": (Status.ERROR, "image gone"),
        "deed": (Status.SCORED, ""),
    }


def test_failures_become_statuses_and_a_hanging_answer_counts_as_a_wrong_one(pool: Pool) -> None:
    texts = ["hang", "crash", "raise", "raise a surrogate", "huge", "a set", "x"]
    stage = score(pool, *(make_rollout(text, number=n) for n, text in enumerate(texts)))
    error, scored = Status.ERROR, Status.SCORED
    statuses = [stage.by_number[number].status for number in range(len(texts))]
    assert statuses == [Status.TIMEOUT, error, error, error, error, scored, scored]
    assert stage.by_number[0].components == {"accuracy": 0.0}
    assert all(not stage.by_number[number].components for number in range(1, 5))
    assert all(stage.by_number[number].detail for number in range(5))
    assert len(stage.rewards) == len(texts)
    assert stage.scorer.num_by_status == {Status.TIMEOUT: 1, error: 4, scored: 2}


def test_a_timeout_is_within_the_range_and_unscored_where_the_run_file_says_so(pool: Pool) -> None:
    hanging = make_rollout("hang", terms=[make_term("strict", "1")])
    (reward,) = score(pool, hanging).rewards
    assert (reward.status, reward.components) == (Status.TIMEOUT, {"penalty": -0.25})
    (reward,) = score(pool, hanging, zero_on_timeout=False).rewards
    assert (reward.status, reward.components) == (Status.TIMEOUT, {})


def test_a_bad_truth_is_unscorable_whatever_the_answer_is(pool: Pool) -> None:
    stage = score(pool, *(make_rollout(text, "no truth", number=n) for n, text in enumerate(["hang", "x"])))
    assert [stage.by_number[number].status for number in (0, 1)] == [Status.UNSCORABLE] * 2


def test_an_opinion_that_is_none_is_named_in_the_reward(pool: Pool) -> None:
    (reward,) = score(pool, make_rollout("abstain")).rewards
    assert (reward.status, reward.components, reward.abstained) == (Status.SCORED, {}, ("accuracy",))


BAD_PARAMETERS = [
    "[1]",
    "{",
    "null",
    '"text"',
    "[" * 100_000,
    '{"step_size": "\\ud800"}',
    '{"unknown": 1}',
    '{"step_size": []}',
]


@pytest.mark.parametrize("params", BAD_PARAMETERS)
def test_bad_parameters_are_unscorable(pool: Pool, params: str) -> None:
    (reward,) = score(pool, make_rollout("x", terms=[make_term(params_json=params)])).rewards
    assert reward.status is Status.UNSCORABLE
    assert "parameters" in reward.detail


@pytest.mark.parametrize("params", ['{"det_reward_ratio": {"\\ud800": 1}}', '{"threshold": []}', '{"schedule": 3}'])
def test_bad_parameters_of_detection_are_unscorable(pool: Pool, params: str) -> None:
    terms = [make_term("detection", DETECTION, params_json=params)]
    (reward,) = score(pool, make_rollout(f"<answer>{BOX}</answer>", BOX, terms=terms)).rewards
    assert reward.status is Status.UNSCORABLE


@pytest.mark.parametrize("columns_json", ["[", "[]", "[" * 100_000, "3"])
def test_columns_that_are_no_object_are_unscorable(pool: Pool, columns_json: str) -> None:
    (reward,) = score(pool, make_rollout("x", columns_json=columns_json)).rewards
    assert reward.status is Status.UNSCORABLE


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda values: st.lists(values, max_size=3) | st.dictionaries(st.text(), values, max_size=3),
    max_leaves=6,
)
PARAMETERS = st.one_of(st.text(), JSON_VALUES.map(json.dumps))


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(texts=st.lists(st.tuples(st.text(), st.text(), PARAMETERS, PARAMETERS), min_size=1, max_size=5))
def test_whatever_a_rollout_holds_each_term_gets_one_reward(pool: Pool, texts: Sequence[tuple[str, ...]]) -> None:
    def make(number: int, text: str, truth: str, params: str, columns: str) -> Rollout:
        terms = [make_term(params_json=params), make_term("detection", DETECTION, params_json=params)]
        return make_rollout(text, truth, number=number, terms=terms, columns_json=columns)

    stage = score(pool, *(make(number, *words) for number, words in enumerate(texts)))
    asked = sorted((number, verifier) for number in range(len(texts)) for verifier in ("deed", "detection"))
    assert sorted((reward.group.number, reward.verifier) for reward in stage.rewards) == asked


def test_records_for_others_and_barriers_are_skipped_without_decoding(pool: Pool) -> None:
    stage = ScoringStage(pool)
    stage.take(
        raw(b"\xff\xff", {**OUR_CONTRACT, "verifiers": b"ocr@1,math@0,deed"}), raw(b"", {"tristream-barrier": b"t"})
    )
    stage.finish()
    assert (stage.rewards, stage.letters) == ([], [])


def test_an_undecodable_record_becomes_a_dead_letter_with_its_reason(pool: Pool) -> None:
    headers = {**OUR_CONTRACT, "verifiers": b"ocr@1,deed@7"}
    stage = ScoringStage(pool)
    stage.take(to_record(make_rollout("x")), raw(b"\xff\xff", headers))
    (letter,) = stage.finish().letters
    assert (letter.topic, letter.partition, letter.offset, letter.key) == ("rollouts", 2, 1, b"k")
    assert (letter.value, letter.headers, letter.part) == (b"\xff\xff", headers, "verifier")
    assert "not protobuf" in letter.error
    assert (stage.scorer.num_dead_letters, len(stage.rewards)) == (1, 1)


def test_each_poison_gets_one_reward_or_one_dead_letter_and_the_next_rollout_is_scored(pool: Pool) -> None:
    usual = to_record(make_rollout("x"))
    records: list[Record[bytes]] = [
        to_record(make_rollout("huge", number=1)),
        raw(usual.event[:-3], usual.headers),
        raw(b"", OUR_CONTRACT),
        raw(b"\xff" * 100, {**OUR_CONTRACT, "verifiers": b"\xff,deed@7"}),
        to_record(make_rollout("x", number=9)),
    ]
    stage = ScoringStage(pool)
    stage.take(*records)
    stage.finish()
    assert {number: reward.status for number, reward in stage.by_number.items()} == {1: Status.ERROR, 9: Status.SCORED}
    assert stage.scorer.num_dead_letters == len(stage.letters) == 3


def test_a_record_of_another_contract_becomes_a_dead_letter(pool: Pool) -> None:
    stage = ScoringStage(pool)
    stage.take(to_record(make_rollout("x", number=1)), to_foreign_record(make_rollout("x", number=2)))
    (letter,) = stage.finish().letters
    assert "contract 1" in letter.error
    assert list(stage.by_number) == [1]


def test_a_log_begun_under_another_contract_is_refused(pool: Pool) -> None:
    with pytest.raises(UserError, match="contract 1"):
        ScoringStage(pool).take(to_foreign_record(make_rollout("x")))


def test_a_rollout_in_hand_keeps_its_images_and_no_arrays() -> None:
    image = Image(media_type="image/png", sha256="0", size_bytes=1, data=b"x")
    rollout = make_rollout("x", images=(image,), num_tokens=2000)
    held = ANSWERS.codec.decode(ROLLOUTS.codec.encode(rollout))
    assert held.rollout == replace(rollout, segments=(given_segment(Tokens(), (image,)),))
    assert (held.num_prompt_tokens, held.num_sampled_tokens) == (3, 2000)


def test_the_answer_of_a_failed_rollout_is_judged_as_empty(pool: Pool) -> None:
    failed = replace(make_rollout("", "x"), segments=(), finish_reason=FinishReason.ERROR, error="a bomb")
    (reward,) = score(pool, failed).rewards
    assert (reward.status, reward.components) == (Status.SCORED, {"accuracy": 0.0})


class LargeRewardsBus(MemoryBus):
    """Its records are small."""

    def publish(self, topic: Topic[Any], event: Any) -> "Future[None]":
        if topic is REWARDS and event.status is Status.SCORED:
            event = replace(event, params_json="x" * 9 * 2**20)
        return super().publish(topic, event)


def test_a_reward_that_no_record_can_hold_is_an_error_without_its_details(pool: Pool) -> None:
    stage = ScoringStage(pool, bus=LargeRewardsBus(RUN))
    stage.take_rollouts(make_rollout("x"))
    (reward,) = stage.finish().rewards
    assert (reward.status, reward.components, reward.params_json) == (Status.ERROR, {}, "{}")
    assert "fit" in reward.detail


class RefusingBus(MemoryBus):
    """Takes no rewards."""

    def publish(self, topic: Topic[Any], event: Any) -> "Future[None]":
        if topic is REWARDS:
            raise BusError("refused")
        return super().publish(topic, event)


def test_a_broker_that_refuses_a_reward_ends_the_work_and_settles_nothing(pool: Pool) -> None:
    stage = ScoringStage(pool, bus=RefusingBus(RUN))
    stage.take_rollouts(make_rollout("x"))
    with pytest.raises(BusError, match="refused"):
        stage.finish()
    assert stage.mark == 0


def test_a_broken_pool_is_an_error_of_the_worker_not_of_the_rollout() -> None:
    pool = Pool({"deed@7": PLUG_INS["deed@7"]}, num_processes=1)
    pool.start()
    stage = ScoringStage(pool)
    stage.take_rollouts(make_rollout("hang"))
    pool.stop()
    with pytest.raises(PoolError):
        stage.finish()
    with pytest.raises(PoolError):
        stage.take_rollouts(make_rollout("x", number=2))
    assert stage.mark == 0

"""Rollouts in hand: none waits for another, but for those of its group where a verifier judges groups."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from builders import PLUG_INS, make_rollout, make_term
from scoring_stage import SECOND_NS, ScoringStage

from tristream.verifiers.pool.pool import Pool
from tristream.verifiers.service.terms import Shadow
from tristream.verifiers.service.window import Lane
from tristream.wire.events import FinishReason, Rollout, Status, TermMode

PANEL = make_term("panel", "1")
JUDGE = make_term("judge", "1")


@pytest.fixture(scope="module")
def pool() -> Iterator[Pool]:
    pool = Pool(PLUG_INS, num_processes=1)
    pool.start()
    yield pool
    pool.stop()


def member(index: int, text: str = "x", *, number: int = 0, size: int = 3, **options: Any) -> Rollout:
    return make_rollout(text, number=number, index=index, size=size, terms=[PANEL], **options)


def failed(rollout: Rollout) -> Rollout:
    return replace(rollout, text="", segments=(), finish_reason=FinishReason.ERROR)


def test_a_slow_rollout_holds_back_the_mark_and_no_other_reward(pool: Pool) -> None:
    stage = ScoringStage(pool)
    stage.take_rollouts(make_rollout("sleep 4.0", number=0, terms=[JUDGE]))
    stage.take_rollouts(*(make_rollout("x", number=n) for n in range(1, 30)))
    stage.wait_until(lambda: len(stage.rewards) == 29)
    assert stage.mark == 0
    assert 0 not in stage.by_number
    assert stage.finish().by_number[0].components == {"opinion": 0.5}


def test_rollouts_that_wait_for_a_judge_use_no_credits_of_pure_verifiers(pool: Pool) -> None:
    stage = ScoringStage(pool, sizes={Lane.PURE: 10, Lane.ASYNC: 40})
    stage.take_rollouts(*(make_rollout("sleep 1.0", number=n, terms=[JUDGE]) for n in range(20)))
    assert stage.window.room == 10
    stage.take_rollouts(*(make_rollout("sleep 0.3", number=20 + n) for n in range(3)))
    assert stage.window.room == 7
    stage.finish()
    assert stage.window.room == 10
    assert len(stage.rewards) == 23


def test_every_second_answer_hangs_and_all_are_judged(pool: Pool) -> None:
    stage = ScoringStage(pool)
    stage.take_rollouts(*(make_rollout("hang" if n % 2 else "x", number=n) for n in range(12)))
    stage.finish()
    assert [stage.by_number[n].status for n in range(12)] == [Status.SCORED, Status.TIMEOUT] * 6
    assert len(stage.rewards) == 12


def test_a_group_is_judged_once_it_is_whole_in_whatever_order_it_comes(pool: Pool) -> None:
    stage = ScoringStage(pool)
    stage.take_rollouts(member(2, "xxx"), member(0, "x", number=1), member(0, "x"))
    assert (stage.rewards, stage.mark, stage.window.num_in_works) == ([], 0, 0)
    stage.take_rollouts(member(1, "xx"))
    stage.wait_until(lambda: stage.mark == 1)
    ranks = {reward.index: reward.components["rank"] for reward in stage.rewards}
    assert ranks == {0: 0.0, 1: pytest.approx(1 / 3), 2: pytest.approx(2 / 3)}
    assert stage.end == 4, "the other group is waited for"


def test_a_rollout_without_an_answer_is_left_out_of_its_group(pool: Pool) -> None:
    stage = ScoringStage(pool)
    stage.take_rollouts(member(0), failed(member(1)))
    assert stage.mark == 0, "it is read again with its group"
    stage.take_rollouts(member(2, "xx"))
    stage.finish()
    assert {reward.index: reward.components["rank"] for reward in stage.rewards} == {0: 0.0, 2: 0.5}
    stage.take_rollouts(*(failed(member(index, number=1)) for index in range(3)))
    assert len(stage.finish().rewards) == 2


def test_of_two_texts_of_one_member_the_first_is_judged(pool: Pool) -> None:
    stage = ScoringStage(pool)
    stage.take_rollouts(member(0), member(0, "xxxxx"), member(1), member(2), member(1, "xxxxx"))
    stage.finish()
    assert [reward.components["rank"] for reward in stage.rewards] == [0.0] * 3


def test_a_group_that_is_not_whole_in_time_gets_errors_by_the_time_of_the_log(pool: Pool) -> None:
    stage = ScoringStage(pool, options={"group_wait_seconds": 10.0})
    stage.take_rollouts(member(0), failed(member(1)), timestamp_ns=SECOND_NS)
    stage.take_rollouts(make_rollout("x", number=7), timestamp_ns=11 * SECOND_NS)
    stage.wait_until(lambda: len(stage.rewards) == 1)
    assert stage.mark == 0
    stage.take_rollouts(make_rollout("x", number=8), timestamp_ns=11 * SECOND_NS + 1)
    stage.finish()
    (reward,) = [reward for reward in stage.rewards if reward.verifier == "panel"]
    assert (reward.index, reward.status) == (0, Status.ERROR)
    assert reward.detail == "the group is incomplete: 2 of 3 rollouts after 10 s"
    stage.take_rollouts(member(2))
    assert len(stage.finish().rewards) == 3, "it came too late"


def test_a_group_that_moves_is_judged_where_it_is_read_again(pool: Pool) -> None:
    stage = ScoringStage(pool)
    stage.take_rollouts(member(0), member(1))
    stage.scorer.forget()
    stage.window.assign({2: 0})
    stage.take_rollouts(member(0), member(1), member(2))
    stage.finish()
    assert len(stage.rewards) == 3


def test_a_rollout_that_is_read_again_while_it_is_judged_is_judged_once(pool: Pool) -> None:
    stage = ScoringStage(pool)
    slow = make_rollout("sleep 1.0", terms=[JUDGE])
    stage.take_rollouts(slow)
    stage.scorer.forget()
    stage.window.assign({2: 0})
    stage.take_rollouts(slow, make_rollout("x", number=1))
    stage.wait_until(lambda: len(stage.rewards) == 1)
    assert stage.mark == 0
    stage.finish()
    assert len(stage.rewards) == 2


def make_shadow(**options: Any) -> Shadow:
    facts: dict[str, Any] = {"sources": frozenset({"shapes"}), "params_json": '{"step_size": 4}', **options}
    return Shadow(verifier="deed", version="7", **facts)


def test_an_added_verifier_scores_its_sources_as_a_shadow_and_a_term_that_asks_instead(pool: Pool) -> None:
    others = [make_term("math", "1")]
    stage = ScoringStage(pool, shadow=make_shadow())
    stage.take_rollouts(
        make_rollout("x", number=0, terms=others),
        make_rollout("x", number=1, terms=[*others, make_term(term_id="asked", params_json='{"step_size": 2}')]),
        make_rollout("x", number=2, terms=others, source="letters"),
        make_rollout("x", number=3, terms=[make_term(term_id="asked")], source="letters"),
    )
    stage.finish()
    told = {n: (r.term_id, r.mode, r.version, r.params_json) for n, r in stage.by_number.items()}
    assert told == {
        0: ("deed", TermMode.SHADOW, "7", '{"step_size": 4}'),
        1: ("asked", TermMode.ACTIVE, "7", '{"step_size": 2}'),
        3: ("asked", TermMode.ACTIVE, "7", '{"step_size": 1}'),
    }
    assert len(stage.rewards) == 3


def test_an_added_verifier_leaves_out_what_was_there_before_and_what_comes_after_its_end(pool: Pool) -> None:
    others = [make_term("math", "1")]
    shadow = make_shadow(from_ns=5 * SECOND_NS, sources=frozenset())
    stage = ScoringStage(pool, shadow=shadow)
    stage.take_rollouts(make_rollout("x", number=0, terms=others), timestamp_ns=5 * SECOND_NS - 1)
    stage.take_rollouts(make_rollout("x", number=1, terms=others), timestamp_ns=5 * SECOND_NS)
    shadow.retired_from_number = 3
    asked = make_rollout("x", number=5, terms=[make_term(term_id="asked")])
    numbers = [make_rollout("x", number=n, terms=others) for n in (2, 3, 4)]
    stage.take_rollouts(*numbers, asked, timestamp_ns=6 * SECOND_NS)
    assert sorted(stage.finish().by_number) == [1, 2, 5]


def test_a_group_that_began_before_its_verifier_was_added_is_left_out(pool: Pool) -> None:
    shadow = Shadow(verifier="panel", version="1", sources=frozenset(), params_json="{}", from_ns=SECOND_NS)
    stage = ScoringStage(pool, shadow=shadow, options={"group_wait_seconds": 10.0})
    stage.take_rollouts(member(1), timestamp_ns=2 * SECOND_NS)
    stage.take_rollouts(member(0, number=1), timestamp_ns=12 * SECOND_NS)
    stage.take_rollouts(make_rollout("x", number=2, size=1, index=0), timestamp_ns=23 * SECOND_NS)
    stage.finish()
    assert sorted((reward.group.number, reward.status) for reward in stage.rewards) == [
        (1, Status.ERROR),
        (2, Status.SCORED),
    ]

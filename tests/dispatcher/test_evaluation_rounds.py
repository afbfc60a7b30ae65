from collections.abc import Callable

import pytest

from memory import held_bytes_of
from tristream.config.evaluation import EvaluationSection
from tristream.dispatcher.evaluation_rounds import EvaluationRounds, EvaluationWork
from tristream.wire.events import EvaluatedRound, Interval, Ledger, LogPosition, PolicyVersion, Weights


def make_rounds(every: int, num_prompts: int, total_steps: int) -> EvaluationRounds:
    return EvaluationRounds(EvaluationSection(every=every), num_prompts=num_prompts, total_steps=total_steps)


def make_policy(
    version: int, sha256: str = "0", *, durable: int = 0, evaluated: tuple[EvaluatedRound, ...] = ()
) -> PolicyVersion:
    return PolicyVersion(
        run="demo",
        weights=make_weights(version, sha256),
        total_steps=9,
        durable=Ledger(step=durable, position=LogPosition(evaluated=evaluated)),
        created_ns=1,
    )


def make_weights(version: int, sha256: str = "0") -> Weights:
    return Weights(version=version, uri=f"weights/{version}", sha256=sha256)


def make_evaluated(eval_step: int, num_answers: int, attempt: int = 0) -> EvaluatedRound:
    return EvaluatedRound(eval_step=eval_step, eval_attempt=attempt, numbers=(Interval(start=0, end=num_answers),))


def take(rounds: EvaluationRounds) -> list[tuple[int, str, int, int]]:
    return [(w.weights.version, w.weights.sha256, w.attempt, w.number) for w in rounds.take_work()]


def answer(rounds: EvaluationRounds, work: list[tuple[int, str, int, int]]) -> None:
    for version, _, attempt, number in work:
        rounds.observe_answered(version, attempt, number)


def test_a_version_that_is_not_due_gets_no_round() -> None:
    rounds = make_rounds(every=4, num_prompts=1, total_steps=6)
    for version in range(7):
        rounds.observe_policy(make_policy(version))
    assert [version for version, *_ in take(rounds)] == [0, 4, 6]


def test_a_round_is_given_once_and_a_half_given_round_is_completed() -> None:
    rounds = make_rounds(every=4, num_prompts=3, total_steps=4)
    for number in (0, 2):
        rounds.observe_dispatched(make_weights(0), 0, number)
    rounds.observe_policy(make_policy(1))
    assert list(rounds.take_work()) == [EvaluationWork(weights=make_weights(0), attempt=0, number=1)]
    rounds.observe_policy(make_policy(4))
    assert take(rounds) == [(4, "0", 0, 0), (4, "0", 0, 1), (4, "0", 0, 2)]
    rounds.observe_policy(make_policy(4, durable=4))
    assert take(rounds) == []


def test_a_version_that_is_trained_anew_is_evaluated_anew() -> None:
    rounds = make_rounds(every=9, num_prompts=2, total_steps=9)
    rounds.observe_policy(make_policy(9, "first"))
    answer(rounds, take(rounds))
    assert rounds.is_finished()
    rounds.observe_policy(make_policy(9, "second"))
    again = take(rounds)
    assert again == [(9, "second", 1, 0), (9, "second", 1, 1)]
    assert not rounds.is_finished()
    answer(rounds, again)
    assert rounds.is_finished()
    rounds.observe_policy(make_policy(9, "second", durable=9))
    assert take(rounds) == []


def test_what_an_earlier_attempt_lacks_is_not_given_but_its_answers_are_waited_for() -> None:
    rounds = make_rounds(every=9, num_prompts=2, total_steps=9)
    rounds.observe_dispatched(make_weights(9, "first"), 0, 1)
    rounds.observe_policy(make_policy(9, "second"))
    work = take(rounds)
    assert {attempt for _, _, attempt, _ in work} == {1}
    answer(rounds, work)
    assert rounds.num_unanswered() == (9, 1)
    rounds.observe_answered(9, 0, 1)
    assert rounds.is_finished()


@pytest.mark.parametrize("is_policy_first", [True, False])
def test_after_a_restart_the_attempts_on_the_log_are_known(is_policy_first: bool) -> None:
    rounds = make_rounds(every=9, num_prompts=1, total_steps=9)
    facts: list[Callable[[], None]] = [
        lambda: rounds.observe_policy(make_policy(9, "first")),
        lambda: rounds.observe_policy(make_policy(9, "second")),
        lambda: rounds.observe_dispatched(make_weights(9, "first"), 0, 0),
        lambda: rounds.observe_dispatched(make_weights(9, "second"), 1, 0),
    ]
    for fact in facts if is_policy_first else [*facts[2:], *facts[:2]]:
        fact()
    assert take(rounds) == []


def test_a_learner_that_resumes_with_the_weights_of_its_checkpoint_causes_no_round() -> None:
    """The prompts of the round lie before what the dispatcher reads, so that it knows of its answers alone."""
    rounds = make_rounds(every=2, num_prompts=2, total_steps=9)
    ledger = (make_evaluated(2, 2), make_evaluated(4, 2))
    rounds.observe_policy(make_policy(4, "same", durable=5, evaluated=ledger))
    assert take(rounds) == []
    assert rounds.num_answered == 3


def test_a_round_of_another_life_is_not_taken_for_one_of_the_weights_that_are_trained_anew() -> None:
    rounds = make_rounds(every=9, num_prompts=1, total_steps=9)
    rounds.observe_policy(make_policy(6, durable=6, evaluated=(make_evaluated(0, 1), make_evaluated(9, 1))))
    assert take(rounds) == []
    rounds.observe_policy(make_policy(9, "anew", durable=6))
    assert take(rounds) == [(9, "anew", 1, 0)]


def test_rounds_are_finished_when_all_answers_of_the_last_version_are_there() -> None:
    rounds = make_rounds(every=5, num_prompts=2, total_steps=5)
    rounds.observe_policy(make_policy(5))
    take(rounds)
    assert rounds.num_unanswered() == (5, 2)
    rounds.observe_answered(5, 0, 0)
    rounds.observe_answered(5, 0, 0)
    assert not rounds.is_finished()
    assert rounds.num_answered == 0
    rounds.observe_answered(5, 0, 1)
    assert rounds.is_finished()
    assert rounds.num_answered == 1


def test_a_run_without_held_out_rows_finishes_with_its_last_version() -> None:
    rounds = make_rounds(every=5, num_prompts=0, total_steps=5)
    assert not rounds.is_finished()
    rounds.observe_policy(make_policy(5))
    assert take(rounds) == []
    assert rounds.is_finished()


def test_memory_does_not_grow_with_the_rounds_that_are_answered() -> None:
    rounds = make_rounds(every=1, num_prompts=20, total_steps=10**6)

    def play(steps: range) -> None:
        for step in steps:
            rounds.observe_policy(make_policy(step, durable=step - 1))
            answer(rounds, take(rounds))
            rounds.forget_old()

    play(range(1, 200))
    with held_bytes_of("dispatcher") as held_bytes:
        play(range(200, 300))
        before = held_bytes()
        play(range(300, 3000))
        assert held_bytes() - before < 65_536
    assert rounds.num_answered == 3000


def test_a_round_that_still_gets_answers_is_not_forgotten() -> None:
    rounds = make_rounds(every=1, num_prompts=2, total_steps=9)
    rounds.observe_policy(make_policy(1))
    work = take(rounds)
    answer(rounds, work[:1])
    rounds.observe_policy(make_policy(3, durable=3))
    answer(rounds, take(rounds))
    rounds.forget_old()
    assert rounds.num_unanswered() == (1, 1)
    answer(rounds, work[1:])
    rounds.forget_old()
    assert rounds.num_unanswered() is None
    assert rounds.num_answered == 3

"""The evaluation rounds: what is answered stays so, however few of the rounds are kept."""

from hypothesis import given
from hypothesis import strategies as st

from assembly import make_group
from tristream.assembler.rounds import NUM_KEPT_ROUNDS, EvaluationRounds
from tristream.wire.events import Group, Interval, Split


def prompt(step: int, number: int = 0, attempt: int = 0) -> Group:
    return make_group(number, Split.EVAL, eval_step=step, eval_attempt=attempt)


def test_of_a_long_run_the_newest_rounds_are_kept_and_those_before_count_as_answered() -> None:
    rounds = EvaluationRounds()
    for step in range(0, 5000, 5):
        for number in range(3):
            rounds.add(prompt(step, number))
        rounds.forget_old(step, [])
    assert len(rounds.kept()) == NUM_KEPT_ROUNDS + 1
    again = EvaluationRounds(rounds.kept())
    for known in (rounds, again):
        assert all(prompt(step, number) in known for step in range(0, 5000, 5) for number in range(3))
        assert prompt(4995, 3) not in known
        assert prompt(5000) not in known


def test_a_round_without_answers_is_not_taken_for_an_old_one() -> None:
    rounds = EvaluationRounds()
    for step in range(5, 1000, 5):
        rounds.add(prompt(step))
        rounds.forget_old(step, [(0, 0)])
    assert prompt(0) not in rounds
    assert prompt(0) not in EvaluationRounds(rounds.kept())


def test_a_learner_that_went_back_has_its_versions_evaluated_anew() -> None:
    rounds = EvaluationRounds()
    for step in range(0, 1000, 5):
        rounds.add(prompt(step))
    for step in range(100, 1000, 5):
        rounds.forget_old(step, [])
        assert prompt(step, attempt=1) not in rounds
        rounds.add(prompt(step, attempt=1))
    assert prompt(100, attempt=1) in rounds


def test_the_numbers_of_a_round_are_intervals() -> None:
    rounds = EvaluationRounds()
    for number in (0, 1, 2, 7):
        rounds.add(prompt(5, number))
    kept = {one.eval_step: one.numbers for one in rounds.kept()}
    assert kept == {0: (), 5: (Interval(start=0, end=3), Interval(start=7, end=8))}


@given(st.lists(st.tuples(st.integers(0, 300), st.integers(0, 2), st.integers(0, 3)), max_size=200))
def test_what_is_answered_stays_answered(answers: list[tuple[int, int, int]]) -> None:
    rounds = EvaluationRounds()
    for step, attempt, number in answers:
        rounds.add(prompt(step, number, attempt))
        rounds.forget_old(step, [])
    assert all(prompt(step, number, attempt) in rounds for step, attempt, number in answers)
    kept = EvaluationRounds(rounds.kept())
    assert all(prompt(step, number, attempt) in kept for step, attempt, number in answers)

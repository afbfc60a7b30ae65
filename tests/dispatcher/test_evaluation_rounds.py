from tristream.config.evaluation import EvaluationSection
from tristream.dispatcher.evaluation_rounds import EvaluationRounds
from tristream.wire.events import Weights


def make_weights(version: int) -> Weights:
    return Weights(version=version, uri=f"weights/{version}", sha256="0")


def test_a_version_that_is_not_due_gets_no_round() -> None:
    rounds = EvaluationRounds(EvaluationSection(every=4), num_prompts=1, total_steps=6)
    for version in range(7):
        rounds.observe_version(make_weights(version))
    assert [work.weights.version for work in rounds.take_work()] == [0, 4, 6]


def test_a_round_goes_on_with_the_weights_that_it_began_with() -> None:
    """A learner that went back to a checkpoint announces a version again, with other weights."""
    rounds = EvaluationRounds(EvaluationSection(every=4), num_prompts=2, total_steps=4)
    first = make_weights(0)
    rounds.observe_version(Weights(version=0, uri="weights/again", sha256="1"))
    rounds.observe_dispatched(first, 1)
    assert [(work.weights, work.number) for work in rounds.take_work()] == [(first, 0)]


def test_a_round_is_given_once_and_a_half_given_round_is_completed() -> None:
    rounds = EvaluationRounds(EvaluationSection(every=4), num_prompts=3, total_steps=4)
    for number in (0, 2):
        rounds.observe_dispatched(make_weights(0), number)
    rounds.observe_version(make_weights(0))
    rounds.observe_version(make_weights(1))
    assert [(work.weights.version, work.number) for work in rounds.take_work()] == [(0, 1)]
    rounds.observe_version(make_weights(4))
    assert [(work.weights.version, work.number) for work in rounds.take_work()] == [(4, 0), (4, 1), (4, 2)]
    rounds.observe_version(make_weights(4))
    assert list(rounds.take_work()) == []


def test_rounds_are_finished_when_all_answers_of_the_last_version_are_there() -> None:
    rounds = EvaluationRounds(EvaluationSection(every=5), num_prompts=2, total_steps=5)
    rounds.observe_version(make_weights(5))
    list(rounds.take_work())
    assert rounds.num_unanswered() == (5, 2)
    rounds.observe_answered(5, 0)
    rounds.observe_answered(5, 0)
    assert not rounds.is_finished()
    assert rounds.num_answered == 0
    rounds.observe_answered(5, 1)
    assert rounds.is_finished()
    assert rounds.num_answered == 1


def test_a_run_without_held_out_rows_finishes_with_its_last_version() -> None:
    rounds = EvaluationRounds(EvaluationSection(every=5), num_prompts=0, total_steps=5)
    assert not rounds.is_finished()
    rounds.observe_version(make_weights(5))
    assert rounds.is_finished()

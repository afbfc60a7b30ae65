import random

from hypothesis import given
from hypothesis import strategies as st

from tristream.dispatcher.admission import Admission
from tristream.wire.events import Interval, PolicyVersion, Weights
from tristream.wire.ledger import IntervalSet


def make_policy(version: int, settled: IntervalSet | None = None, dropped: IntervalSet | None = None) -> PolicyVersion:
    return PolicyVersion(
        run="demo",
        weights=Weights(version=version, uri=f"weights/{version}", sha256="0"),
        total_steps=10,
        settled=() if settled is None else settled.intervals,
        dropped=() if dropped is None else dropped.intervals,
        created_ns=1,
    )


def admit_all(admission: Admission) -> list[int]:
    numbers = []
    while (admitted := admission.admit()) is not None:
        numbers.append(admitted.number)
    return numbers


def test_nothing_is_admitted_before_the_learner_is_there() -> None:
    assert Admission(total_steps=3, groups_per_step=2, max_staleness=0).admit() is None


def test_admission_follows_the_staleness_bound() -> None:
    admission = Admission(total_steps=3, groups_per_step=2, max_staleness=1)
    admission.observe_version(0)
    assert admit_all(admission) == [0, 1, 2, 3]
    admission.observe_version(1)
    admission.observe_dropped(2)
    assert admit_all(admission) == [4, 5, 6]
    admission.observe_version(2)
    assert admit_all(admission) == []


def test_progress_is_the_step_that_a_prompt_fills() -> None:
    admission = Admission(total_steps=2, groups_per_step=2, max_staleness=5)
    admission.observe_version(0)
    admission.observe_dropped(0)
    steps = []
    while (admitted := admission.admit()) is not None:
        steps.append(admitted.progress.step)
    assert steps == [1, 1, 2, 2]
    admission.observe_dropped(1)
    refill = admission.admit()
    assert refill is not None
    assert (refill.number, refill.progress.step) == (5, 2)


@given(st.integers(1, 6), st.integers(1, 4), st.integers(0, 3), st.integers(0, 2**32), st.floats(0, 0.6), st.booleans())
def test_a_run_trains_exactly_its_groups_within_the_bound_across_restarts(
    total_steps: int, groups_per_step: int, max_staleness: int, seed: int, drop_rate: float, new_broker: bool
) -> None:
    """Plays the learner and the assembler, and replaces the dispatcher and the broker at random moments."""
    rng = random.Random(seed)

    def fresh() -> Admission:
        return Admission(total_steps=total_steps, groups_per_step=groups_per_step, max_staleness=max_staleness)

    admission, version = fresh(), 0
    admission.observe_policy(make_policy(0))
    log: set[int] = set()
    pending: list[int] = []
    trained, dropped = IntervalSet(), IntervalSet()
    while version < total_steps:
        for number in admit_all(admission):
            assert number not in log
            assert number not in trained
            log.add(number)
            pending.append(number)
            in_play = len(IntervalSet((*IntervalSet.of(log).intervals, *trained.intervals))) - len(
                [n for n in dropped if n in log or n in trained]
            )
            assert in_play <= min(max_staleness + version + 1, total_steps) * groups_per_step
        rng.shuffle(pending)
        assert pending, "the run stands still"
        while pending and rng.random() < drop_rate:
            number = pending.pop()
            dropped.add(number)
            admission.observe_dropped(number)
        if len(pending) >= groups_per_step:
            for number in pending[:groups_per_step]:
                trained.add(number)
            del pending[:groups_per_step]
            version += 1
            settled = IntervalSet((*trained.intervals, *dropped.intervals))
            policy = make_policy(version, settled, dropped)
            admission.observe_policy(policy)
            if rng.random() < 0.3:
                admission = fresh()
                if new_broker:
                    log, pending = set(settled), []
                for number in log:
                    admission.observe_dispatched(number)
                admission.observe_policy(policy)
    assert len(trained) == total_steps * groups_per_step
    assert not pending
    assert admit_all(admission) == []


@given(st.integers(0, 2**32))
def test_the_state_does_not_depend_on_the_order_of_the_facts(seed: int) -> None:
    rng = random.Random(seed)
    facts = [("dispatched", n) for n in range(8)] + [("dropped", n) for n in (1, 5)] + [("dropped", 1)]
    settled = (Interval(start=0, end=3),)

    def state(order: list[tuple[str, int]]) -> tuple[int, int, list[int]]:
        admission = Admission(total_steps=9, groups_per_step=2, max_staleness=1)
        for kind, number in order:
            if kind == "dispatched":
                admission.observe_dispatched(number)
            else:
                admission.observe_dropped(number)
        admission.observe_policy(make_policy(4, IntervalSet(settled)))
        return admission.num_dispatched, admission.num_dropped, admit_all(admission)

    shuffled = rng.sample(facts, len(facts))
    assert state(facts) == state(shuffled) == (8, 2, list(range(8, 14)))

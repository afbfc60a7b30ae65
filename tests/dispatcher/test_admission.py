import random

from hypothesis import given, settings
from hypothesis import strategies as st

from memory import held_bytes_of
from tristream.dispatcher.admission import Admission
from tristream.wire.events import Interval, Ledger, PolicyVersion, Weights
from tristream.wire.ledger import IntervalSet


def make_policy(version: int, durable: Ledger | None = None) -> PolicyVersion:
    return PolicyVersion(
        run="demo",
        weights=Weights(version=version, uri=f"weights/{version}", sha256="0"),
        total_steps=10,
        durable=durable or Ledger(step=0),
        created_ns=1,
    )


def make_admission(total_steps: int, groups_per_step: int, max_staleness: int, version: int | None = None) -> Admission:
    admission = Admission(total_steps=total_steps, groups_per_step=groups_per_step, max_staleness=max_staleness)
    if version is not None:
        admission.observe_policy(make_policy(version))
    return admission


def admit_all(admission: Admission) -> list[int]:
    numbers = []
    while (admitted := admission.admit()) is not None:
        numbers.append(admitted.number)
    return numbers


def test_nothing_is_admitted_before_the_learner_is_there() -> None:
    assert make_admission(3, 2, 0).admit() is None


def test_admission_follows_the_staleness_bound() -> None:
    admission = make_admission(3, 2, 1, version=0)
    assert admit_all(admission) == [0, 1, 2, 3]
    admission.observe_policy(make_policy(1))
    admission.observe_dropped(2)
    assert admit_all(admission) == [4, 5, 6]
    admission.observe_policy(make_policy(2))
    assert admit_all(admission) == []


def test_progress_is_the_step_that_a_prompt_fills() -> None:
    admission = make_admission(2, 2, 5, version=0)
    admission.observe_dropped(0)
    steps = []
    while (admitted := admission.admit()) is not None:
        steps.append(admitted.progress.step)
    assert steps == [1, 1, 2, 2]
    admission.observe_dropped(1)
    refill = admission.admit()
    assert refill is not None
    assert (refill.number, refill.progress.step) == (5, 2)


def test_a_late_or_repeated_drop_of_a_settled_group_changes_nothing() -> None:
    admission = make_admission(9, 2, 0)
    durable = Ledger(step=2, settled=(Interval(start=0, end=6),), num_dropped=2)
    admission.observe_dropped(1)
    admission.observe_policy(make_policy(2, durable))
    for number in (1, 4, 4):
        admission.observe_dropped(number)
    assert (admission.num_dispatched, admission.num_dropped) == (6, 2)
    assert admit_all(admission) == [6, 7]


def test_of_two_ledgers_the_greater_counts() -> None:
    admission = make_admission(9, 2, 0)
    admission.observe_policy(make_policy(4, Ledger(step=4, settled=(Interval(start=0, end=9),), num_dropped=1)))
    admission.observe_policy(make_policy(3, Ledger(step=2, settled=(Interval(start=0, end=4),))))
    assert (admission.version, admission.num_dispatched, admission.num_dropped) == (3, 9, 1)


class World:
    """A run: its log, its learner with checkpoints, and an assembler; the dispatcher is replaced again and again."""

    def __init__(self, rng: random.Random, total_steps: int, groups_per_step: int, max_staleness: int) -> None:
        self.rng = rng
        self.shape = (total_steps, groups_per_step, max_staleness)
        self.on_log: set[int] = set()
        self.dropped_on_log: set[int] = set()
        self.step, self.trained, self.settled_drops = 0, set[int](), set[int]()
        self.checkpoint = (0, set[int](), set[int]())
        self.admission = self.new_dispatcher()

    @property
    def durable(self) -> Ledger:
        step, trained, dropped = self.checkpoint
        return Ledger(step=step, settled=IntervalSet.of(trained | dropped).intervals, num_dropped=len(dropped))

    @property
    def ready(self) -> list[int]:
        """Groups that the assembler may give to the learner."""
        return sorted(self.on_log - self.trained - self.settled_drops - self.dropped_on_log)

    def new_dispatcher(self) -> Admission:
        admission = make_admission(*self.shape)
        admission.observe_policy(make_policy(self.step, self.durable))
        settled = IntervalSet(self.durable.settled)
        log = sorted(self.on_log - (set(settled) if self.rng.random() < 0.5 else set()))
        facts = [(admission.observe_dispatched, number) for number in log]
        facts += [(admission.observe_dropped, number) for number in self.dropped_on_log]
        self.rng.shuffle(facts)
        for observe, number in facts:
            observe(number)
        return admission

    def announce(self) -> None:
        self.admission.observe_policy(make_policy(self.step, self.durable))

    def dispatch(self) -> None:
        total_steps, groups_per_step, max_staleness = self.shape
        for number in admit_all(self.admission):
            assert number not in self.on_log
            assert number not in self.checkpoint[1]
            self.on_log.add(number)
            in_play = (self.on_log | self.checkpoint[1]) - self.dropped_on_log - self.checkpoint[2]
            assert len(in_play) <= min(max_staleness + self.step + 1, total_steps) * groups_per_step

    def drop(self) -> None:
        number = self.rng.choice(self.ready)
        self.dropped_on_log.add(number)
        self.admission.observe_dropped(number)

    def train(self) -> None:
        batch = self.rng.sample(self.ready, self.shape[1])
        self.trained |= set(batch)
        self.settled_drops |= self.dropped_on_log - self.trained
        self.step += 1

    def save(self) -> None:
        self.checkpoint = (self.step, set(self.trained), set(self.settled_drops))

    def go_back(self) -> None:
        self.step, trained, dropped = self.checkpoint
        self.trained, self.settled_drops = set(trained), set(dropped)

    def repeat_old_outcomes(self) -> None:
        for number in self.rng.sample(sorted(self.settled_drops), min(3, len(self.settled_drops))):
            self.admission.observe_dropped(number)

    def lose_the_broker(self) -> None:
        self.on_log, self.dropped_on_log = set(), set()
        self.go_back()
        self.admission = self.new_dispatcher()


@settings(max_examples=300)
@given(st.integers(1, 6), st.integers(1, 4), st.integers(0, 3), st.integers(0, 2**32), st.floats(0, 0.6))
def test_a_run_trains_exactly_its_groups_whatever_happens(
    total_steps: int, groups_per_step: int, max_staleness: int, seed: int, drop_rate: float
) -> None:
    """Random histories with restarts, learners that go back, repeats and new brokers at any point."""
    rng = random.Random(seed)
    world = World(rng, total_steps, groups_per_step, max_staleness)
    num_mishaps = 0
    while world.checkpoint[0] < total_steps:
        world.dispatch()
        if world.step < total_steps:
            assert len(world.ready) >= groups_per_step, "the run stands still"
        while world.ready and rng.random() < drop_rate:
            world.drop()
        if world.step < total_steps and len(world.ready) >= groups_per_step:
            world.train()
            world.announce()
        if rng.random() < 0.4 or world.step == total_steps:
            world.save()
            world.announce()
        world.repeat_old_outcomes()
        if num_mishaps < 20 and rng.random() < 0.3:
            num_mishaps += 1
            mishap = rng.choice(["dispatcher", "learner", "broker"])
            if mishap == "dispatcher":
                world.admission = world.new_dispatcher()
            elif mishap == "learner":
                world.go_back()
                world.announce()
            else:
                world.lose_the_broker()
    assert len(world.checkpoint[1]) == total_steps * groups_per_step
    assert not world.checkpoint[1] & world.checkpoint[2]
    world.dispatch()
    assert world.ready == []


@given(st.integers(0, 2**32))
def test_the_state_does_not_depend_on_the_order_of_the_facts(seed: int) -> None:
    rng = random.Random(seed)
    policy = make_policy(4, Ledger(step=1, settled=(Interval(start=0, end=3),), num_dropped=1))
    facts = [("dispatched", n) for n in range(8)] + [("dropped", n) for n in (1, 5, 1)] + [("policy", 0)]

    def state(order: list[tuple[str, int]]) -> tuple[int, int, list[int]]:
        admission = make_admission(9, 2, 1)
        for kind, number in order:
            if kind == "dispatched":
                admission.observe_dispatched(number)
            elif kind == "dropped":
                admission.observe_dropped(number)
            else:
                admission.observe_policy(policy)
        return admission.num_dispatched, admission.num_dropped, admit_all(admission)

    shuffled = rng.sample(facts, len(facts))
    assert state(facts) == state(shuffled) == (8, 2, list(range(8, 14)))


def test_memory_does_not_grow_with_the_groups_that_are_settled() -> None:
    admission, num_dropped = make_admission(10**6, 8, 1, version=0), 0

    def play(steps: range) -> None:
        nonlocal num_dropped
        for step in steps:
            numbers = admit_all(admission)
            for number in numbers[:2]:
                admission.observe_dropped(number)
            num_dropped += len(numbers[:2])
            end = admission.num_dispatched - 8
            settled = (Interval(start=0, end=end),) if end > 0 else ()
            admission.observe_policy(make_policy(step, Ledger(step=step, settled=settled, num_dropped=num_dropped)))

    play(range(1, 500))
    with held_bytes_of("dispatcher") as held_bytes:
        play(range(500, 1000))
        before = held_bytes()
        play(range(1000, 4000))
        assert held_bytes() - before < 4096


def test_groups_that_wait_take_no_place_of_others_but_the_run_trains_no_more_than_its_steps() -> None:
    admission = make_admission(total_steps=4, groups_per_step=2, max_staleness=1, version=0)
    assert len(admit_all(admission)) == 4
    admission.observe_waiting(3)
    first = admission.admit()
    assert first is not None
    assert (first.number, first.progress.step) == (4, 1)
    assert admit_all(admission) == [5, 6]
    admission.observe_policy(make_policy(1))
    assert admit_all(admission) == [7]
    admission.observe_waiting(0)
    admission.observe_policy(make_policy(2))
    assert admit_all(admission) == []
    admission.observe_dropped(0)
    assert admit_all(admission) == [8]

"""Whatever the order, the repeats and the crashes: one outcome a group, and a replay decides as the live run did."""

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from assembly import Event, Log, group_events, ledger_after, make_settings
from tristream.assembler.shards import BuiltBatch
from tristream.wire.events import Fate, Ledger

NUM_GROUPS = 6
STALE, FLAT, INCOMPLETE, GOOD = "stale", "flat", "incomplete", "good"
KINDS = st.lists(st.sampled_from([STALE, FLAT, INCOMPLETE, GOOD, GOOD]), min_size=NUM_GROUPS, max_size=NUM_GROUPS)
ACTIONS = st.lists(
    st.sampled_from(["read", "read", "step", "step", "checkpoint", "assembler dies", "learner dies"]), max_size=25
)
FIRST_STEP = 4
"""Steps before are behind the learner, so that groups of version 0 are stale."""


def make_events(kinds: list[str], dice: random.Random) -> list[Event]:
    """Records of the groups in any order, a third of them twice."""
    made: list[Event] = []
    for number, kind in enumerate(kinds):
        version = 0 if kind == STALE else 99
        events = group_events(number, [1.0] * 4 if kind == FLAT else None, version)
        made += events[:-1] if kind == INCOMPLETE else events
    made += dice.sample(made, len(made) // 3)
    dice.shuffle(made)
    return made


class LearnerOnLog:
    """A learner that makes steps, writes checkpoints, and forgets what is after them when it dies."""

    def __init__(self, log: Log) -> None:
        self.log = log
        self.ledger = self.durable = Ledger(step=FIRST_STEP)
        self.uncommitted: list[BuiltBatch] = []
        self.log.attach(self.ledger)

    def step(self) -> bool:
        batch = self.log.ask(self.ledger.step + 1)
        if not isinstance(batch, BuiltBatch):
            return False
        self.ledger = ledger_after(batch, start=self.ledger)
        self.uncommitted.append(batch)
        return True

    def checkpoint(self) -> None:
        self.durable = self.ledger
        self.log.commit(self.ledger, *self.uncommitted)
        self.uncommitted = []

    def die(self) -> None:
        self.ledger, self.uncommitted = self.durable, []
        self.log.attach(self.ledger)


@settings(max_examples=200)
@given(KINDS, ACTIONS, st.randoms(use_true_random=False))
def test_every_group_has_exactly_one_outcome_whatever_dies(
    kinds: list[str], actions: list[str], dice: random.Random
) -> None:
    log = Log(make_settings(groups_per_step=1, scoring_timeout_seconds=60.0), *make_events(kinds, dice))
    learner = LearnerOnLog(log)
    acts = {
        "read": lambda: log.read(dice.randint(1, 12)),
        "step": learner.step,
        "checkpoint": learner.checkpoint,
        "assembler dies": lambda: log.restart_assembler(learner.ledger),
        "learner dies": learner.die,
    }
    for action in actions:
        acts[action]()
    log.read()
    log.now_seconds = 61.0
    log.read()
    while learner.step():
        learner.checkpoint()
    assert sorted(outcome.group.number for outcome in log.outcomes) == list(range(NUM_GROUPS))
    good = [number for number, kind in enumerate(kinds) if kind == GOOD]
    assert sorted(o.group.number for o in log.outcomes if o.fate is Fate.TRAINED) == good


@given(KINDS, st.integers(0, 60), st.randoms(use_true_random=False))
def test_rebuilt_from_the_log_it_builds_the_batches_that_the_live_one_builds(
    kinds: list[str], num_read: int, dice: random.Random
) -> None:
    events = make_events(kinds, dice)
    live = Log(make_settings(groups_per_step=1, scoring_timeout_seconds=60.0), *events)
    learner = LearnerOnLog(live)
    live.read(num_read)
    learner.step()
    live.read()
    replayed = live.copy()
    replayed.attach(learner.ledger)
    replayed.read()
    assert len(replayed.outcomes) == len(live.outcomes)
    ledger = learner.ledger
    while isinstance(expected := live.ask(ledger.step + 1), BuiltBatch):
        again = replayed.ask(ledger.step + 1)
        assert isinstance(again, BuiltBatch)
        assert (again.outcomes, again.dropped) == (expected.outcomes, expected.dropped)
        assert [scored.rollouts for scored in again.groups] == [scored.rollouts for scored in expected.groups]
        ledger = ledger_after(expected, start=ledger)
    assert not isinstance(replayed.ask(ledger.step + 1), BuiltBatch)

"""Facts of groups are kept small, the first of two equal ones counts, and what is wrong is named as ranges."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from played_runs import SPEC, digest_of, training_group
from tristream.assembler.facts import JoinedScore, RewardFact
from tristream.assembler.rewards import final_reward
from tristream.audit.accounting import account_lines, make_account
from tristream.audit.final_rewards import FinalRewards
from tristream.audit.findings import Findings, name_ranges
from tristream.audit.group_table import MOST_JUMP, GroupTable, Worth
from tristream.wire import events
from tristream.wire.events import DropReason, Fate, Outcome, RolloutOutcome, Status
from tristream.wire.ledger import IntervalSet


def make_prompt(number: int) -> events.Prompt:
    group = training_group(number, "words")
    return events.Prompt(
        group=group,
        messages=(events.Message(role="user", content="?"),),
        images=(),
        reward=SPEC,
        sampling=events.Sampling(temperature=1.0, top_p=1.0, max_tokens=9, seed=1),
        progress=events.Progress(step=1, total_steps=9),
        digest=digest_of(group),
        created_ns=1,
    )


def make_outcome(number: int, fate: Fate = Fate.TRAINED, reason: DropReason | None = None) -> Outcome:
    rollouts = tuple(RolloutOutcome(index=index, valid=True, reward=index / 4) for index in range(4))
    return Outcome(
        group=training_group(number, "words"), fate=fate, drop_reason=reason, rollouts=rollouts, created_ns=1
    )


@given(st.sets(st.integers(0, 200), min_size=1))
def test_ranges_name_exactly_the_numbers(numbers: set[int]) -> None:
    intervals = IntervalSet.of(numbers)
    text = name_ranges("group", intervals)
    named, _, rest = text.partition(" and ")
    words = named.split(" ", 1)[1].split(", ")
    bounds = [tuple(map(int, word.split("-"))) for word in words]
    shown = {number for first, *last in bounds for number in range(first, (last or [first])[0] + 1)}
    assert shown <= numbers
    assert len(shown) + int((rest or "0 more").split()[0]) == len(numbers)
    assert len(text) < 120


def test_what_is_wrong_with_many_groups_is_one_line() -> None:
    findings = Findings("group")
    findings.add_all(range(17, 213), "no outcome")
    findings.add(5, "another thing")
    assert findings.lines() == ("groups 17-212: no outcome", "group 5: another thing")


def test_the_account_is_one_line_and_one_more_for_each_violation() -> None:
    table = GroupTable(4)
    for number in range(6):
        table.observe_prompt(make_prompt(number), 0, 0)
    table.observe_outcome(make_outcome(0))
    table.observe_outcome(make_outcome(1, Fate.DROPPED, DropReason.STALE))
    for number in (2, 3):
        table.observe_outcome(make_outcome(number, Fate.DROPPED, DropReason.ZERO_VARIANCE))
    account = make_account(table, ("group 5: something is wrong",))
    assert not account.balances
    assert account_lines(account) == [
        "6 groups dispatched = 1 trained + 3 dropped (stale 1, zero_variance 2) + 2 pending",
        "group 5: something is wrong",
    ]


def test_the_first_of_two_outcomes_counts_and_one_that_differs_is_named() -> None:
    table = GroupTable(4)
    table.observe_outcome(make_outcome(3))
    table.observe_outcome(make_outcome(3))
    assert not table.contradictions
    table.observe_outcome(make_outcome(3, Fate.DROPPED, DropReason.STALE))
    assert table.fate(3) is Fate.TRAINED
    assert table.contradictions == {3: {"trained at step 0", "dropped as stale"}}


def test_a_number_far_beyond_all_others_takes_no_room() -> None:
    table = GroupTable(4)
    table.observe_outcome(make_outcome(3))
    table.observe_outcome(make_outcome(2**40))
    assert table.strays == {2**40}
    assert len(table.marks) < MOST_JUMP


def test_a_group_takes_a_few_dozen_bytes_and_a_rollout_as_many() -> None:
    table = GroupTable(8)
    assert table.has_room(2**16 - 1)
    of_groups = (table.steps, table.oldest_versions, table.digests, table.contents, table.specs, table.sources)
    num_bytes = sum(len(column) * column.itemsize for column in of_groups)
    num_bytes += sum(map(len, (table.marks, table.fates, table.reasons, table.worths)))
    num_bytes += len(table.versions) * 4 + (len(table.rewards) + len(table.final_rewards)) * 8 + len(table.ages) * 2
    assert num_bytes / len(table.marks) < 40 + 8 * 25


@given(st.permutations([("math", "accuracy", 0.75), ("form", "format", 0.5), ("math", "accuracy", 0.25)]))
def test_final_rewards_do_not_depend_on_the_order_of_terms(scores: list[tuple[str, str, float]]) -> None:
    table, rewards = GroupTable(4), FinalRewards()
    table.observe_prompt(make_prompt(0), rewards.position(SPEC), 0)
    first: dict[str, dict[str, float]] = {}
    for term, name, value in scores:
        first.setdefault(term, {name: value})
        version = next(asked.version for asked in SPEC.terms if asked.id == term)
        score = JoinedScore(Status.SCORED, {name: value})
        fact = RewardFact(group=training_group(0, "words"), index=2, term_id=term, version=version, score=score)
        rewards.observe(fact, table)
    assert table.worths[2] & Worth.COMPLETE
    assert table.final_rewards[2] == pytest.approx(final_reward(SPEC, first))

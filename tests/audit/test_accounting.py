"""The audit finds each way in which groups can be lost, repeated or contradicted."""

from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tristream.audit.accounting import CheckpointFacts, OutcomeFact, settle_account
from tristream.wire.events import DropReason, Fate
from tristream.wire.ledger import IntervalSet


def trained(number: int, step: int = 1) -> OutcomeFact:
    return OutcomeFact(number=number, fate=Fate.TRAINED, step=step)


def dropped(number: int, reason: DropReason = DropReason.ZERO_VARIANCE) -> OutcomeFact:
    return OutcomeFact(number=number, fate=Fate.DROPPED, reason=reason)


def holding(*settled: int, dropped: Iterable[int] = (), pending: Iterable[int] = ()) -> CheckpointFacts:
    return CheckpointFacts(
        settled=IntervalSet.of(settled), dropped=IntervalSet.of(dropped), pending=IntervalSet.of(pending)
    )


@given(st.lists(st.booleans(), min_size=1, max_size=30), st.integers(1, 3))
def test_each_group_once_balances_however_often_it_is_delivered(fates: list[bool], repeats: int) -> None:
    outcomes = [trained(n) if is_trained else dropped(n) for n, is_trained in enumerate(fates)]
    settled = holding(*range(len(fates)), dropped=[n for n, is_trained in enumerate(fates) if not is_trained])
    numbers = list(range(len(fates))) * repeats
    account = settle_account(numbers, outcomes * repeats, settled, is_finished=True)
    assert account.balances
    assert account.num_trained + sum(account.num_dropped_by_reason.values()) == account.num_dispatched == len(fates)


@pytest.mark.parametrize(
    ("dispatched", "outcomes", "settled", "message"),
    [
        ([0], [trained(0, 1), trained(0, 2)], [0], "group 0 has 2 outcomes: trained at step 1, trained at step 2"),
        ([0], [trained(0), dropped(0)], [0], "group 0 has 2 outcomes: dropped as zero_variance, trained at step 1"),
        ([0], [trained(0), trained(1)], [0, 1], "group 1 has an outcome and was never dispatched"),
        ([0, 2], [trained(0), trained(2)], [0, 2], "group 1 was skipped"),
        ([0, 1], [trained(0)], [0], "group 1 is finished without an outcome"),
        ([0, 1], [trained(0), trained(1)], [0], "group 1 was trained and the checkpoint does not know it"),
        ([0, 1], [trained(0)], [0, 1], "group 1 is settled in the checkpoint and has no outcome"),
    ],
)
def test_a_violation_names_the_group(
    dispatched: list[int], outcomes: list[OutcomeFact], settled: list[int], message: str
) -> None:
    account = settle_account(dispatched, outcomes, holding(*settled), is_finished=True)
    assert any(violation.startswith(message) for violation in account.violations), account.violations


def test_the_log_and_the_checkpoint_have_to_agree_on_the_fate_of_a_group() -> None:
    account = settle_account([0, 1], [trained(0), dropped(1)], holding(0, 1, dropped=[0]), is_finished=True)
    assert account.violations == (
        "group 0 was trained and the checkpoint says dropped",
        "group 1 was dropped and the checkpoint says trained",
    )


def test_a_drop_after_the_checkpoint_is_not_a_contradiction() -> None:
    assert settle_account([0, 1], [trained(0), dropped(1)], holding(0), is_finished=True).balances


def test_pending_groups_are_fine_while_the_run_is_open() -> None:
    account = settle_account([0, 1, 2], [trained(0)], holding(0), is_finished=False)
    assert account.balances
    assert account.num_pending == 2


def test_training_without_any_checkpoint_is_a_violation() -> None:
    assert not settle_account([0], [trained(0)], None, is_finished=False).balances


def test_outcomes_that_a_resumed_learner_will_repeat_may_be_missing_while_the_run_is_open() -> None:
    checkpoint = holding(0, 1, pending=(1,))
    assert settle_account([0, 1], [trained(0)], checkpoint, is_finished=False).balances
    assert not settle_account([0, 1], [trained(0)], checkpoint, is_finished=True).balances

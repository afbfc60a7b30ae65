"""The audit reads the newest whole checkpoint."""

from pathlib import Path

import pytest

from tristream.audit.accounting import Account, CheckpointFacts
from tristream.audit.audit import account_lines, audit_folder, newest_checkpoint
from tristream.runtime.errors import UserError
from tristream.runtime.run_folder import RunFolder, ledger_file
from tristream.wire.batches import Commit, CommittedStep
from tristream.wire.codecs.batches import commit_to_json
from tristream.wire.events import DropReason, Fate, Group, Interval, Outcome, Split
from tristream.wire.ledger import IntervalSet, Ledger


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return RunFolder(tmp_path)


def write_ledger(folder: RunFolder, name: str, text: str) -> None:
    path = ledger_file(folder.checkpoints / name)
    path.parent.mkdir(parents=True)
    path.write_text(text)


def make_commit(num_settled: int, *, dropped: int, unacknowledged: tuple[int, ...] = ()) -> Commit:
    """Groups 0 to NUM_SETTLED are settled, the first ones of them dropped."""
    groups = [
        Group(run="demo", split=Split.TRAIN, number=number, source="words", sample_id=str(number), size=4)
        for number in unacknowledged
    ]
    outcomes = tuple(Outcome(group=group, fate=Fate.TRAINED, step=3, created_ns=1) for group in groups)
    return Commit(
        ledger=Ledger(step=3, settled=(Interval(start=0, end=num_settled),), dropped=(Interval(start=0, end=dropped),)),
        steps=(CommittedStep(step=3, outcomes=outcomes),) if outcomes else (),
    )


def test_unfinished_and_replaced_checkpoints_do_not_count(folder: RunFolder) -> None:
    assert newest_checkpoint(folder) is None
    for name, num_settled in (("step-000002", 2), ("step-000010", 4), ("step-000012.tmp", 6), ("step-000011.old", 5)):
        commit = make_commit(num_settled, dropped=1, unacknowledged=(1, 3))
        write_ledger(folder, name, commit_to_json(commit))
    assert newest_checkpoint(folder) == CheckpointFacts(
        settled=IntervalSet.of(range(4)), dropped=IntervalSet.of([0]), pending=IntervalSet.of([1, 3])
    )


@pytest.mark.parametrize("text", ["{", "[]", '{"settled": [[0, 1]], "pending": []}', '{"ledger": {"settled": 5}}'])
def test_a_broken_ledger_is_named(folder: RunFolder, text: str) -> None:
    write_ledger(folder, "step-000001", text)
    with pytest.raises(UserError, match=r"step-000001/ledger\.json: not a ledger"):
        newest_checkpoint(folder)


def test_a_folder_without_a_run_is_refused(folder: RunFolder) -> None:
    with pytest.raises(UserError, match="not the folder of a run"):
        audit_folder(folder)


def test_the_account_is_one_line_and_one_more_for_each_violation() -> None:
    reasons = {DropReason.STALE: 1, DropReason.ZERO_VARIANCE: 2}
    account = Account(
        num_dispatched=9, num_trained=4, num_pending=2, num_dropped_by_reason=reasons, violations=("group 5 is lost",)
    )
    assert account_lines(account) == [
        "9 groups dispatched = 4 trained + 3 dropped (stale 1, zero_variance 2) + 2 pending",
        "group 5 is lost",
    ]

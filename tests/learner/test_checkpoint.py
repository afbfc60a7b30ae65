import errno
from pathlib import Path

import pytest

from tristream.learner.checkpoints import (
    Bookkeeping,
    RunIdentity,
    find_checkpoints,
    read_bookkeeping,
    remove_old_checkpoints,
    write_checkpoint,
)
from tristream.learner.training.trained_policy import load_policy
from tristream.runtime.errors import UserError
from tristream.wire.events import Interval
from tristream.wire.ledger import Ledger, PartitionOffset

IDENTITY = RunIdentity(run="test", seed=1, total_steps=9, model="m", world_size=1, zero_stage=0, precision="fp32")


def write(folder: Path, step: int, content: str = "state") -> None:
    ledger = Ledger(
        step=step,
        settled=(Interval(start=0, end=5),),
        dropped=(Interval(start=2, end=3),),
        offsets=(PartitionOffset(topic="rewards", partition=1, offset=7),),
    )

    def save_state(target: Path) -> None:
        if content == "full":
            raise OSError(errno.ENOSPC, "No space left on device")
        (target / "state").write_text(content)

    write_checkpoint(
        folder,
        IDENTITY,
        Bookkeeping(ledger=ledger, pending=()),
        save_state,
        rank=0,
        barrier=lambda: None,
    )


def test_a_ledger_comes_back_as_it_was(tmp_path: Path) -> None:
    write(tmp_path, 3)
    bookkeeping = read_bookkeeping(find_checkpoints(tmp_path)[-1], IDENTITY)
    assert bookkeeping.ledger.step == 3
    assert bookkeeping.ledger.dropped == (Interval(start=2, end=3),)
    assert bookkeeping.ledger.offsets == (PartitionOffset(topic="rewards", partition=1, offset=7),)


def test_a_full_disk_leaves_the_checkpoint_before_and_nothing_else(tmp_path: Path) -> None:
    write(tmp_path, 3)
    with pytest.raises(UserError, match="disk is full"):
        write(tmp_path, 4, "full")
    with pytest.raises(UserError, match="disk is full"):
        write(tmp_path, 3, "full")
    assert [path.name for path in tmp_path.iterdir()] == ["step-000003"]
    assert (tmp_path / "step-000003" / "state").read_text() == "state"


def test_an_unfinished_checkpoint_is_not_found_and_is_removed(tmp_path: Path) -> None:
    for step in (1, 2, 3):
        write(tmp_path, step)
    (tmp_path / "step-000004.tmp").mkdir()
    assert find_checkpoints(tmp_path)[-1].name == "step-000003"
    remove_old_checkpoints(tmp_path, keep=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-000002", "step-000003"]


def test_a_checkpoint_written_again_replaces_the_one_before(tmp_path: Path) -> None:
    write(tmp_path, 3)
    write(tmp_path, 3, "again")
    assert [path.name for path in tmp_path.iterdir()] == ["step-000003"]
    assert (tmp_path / "step-000003" / "state").read_text() == "again"


def test_a_prefix_that_freezes_nothing_is_refused(vision_checkpoint: Path) -> None:
    with pytest.raises(UserError, match=r"'visual\.' matches no parameter"):
        load_policy(vision_checkpoint, precision="fp32", freeze=["visual."], logprob_chunk_tokens=8)

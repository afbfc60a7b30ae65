import errno
import json
import os
import random
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from training_groups import make_groups, make_outcome
from tristream.config.algorithms import AlgorithmSection
from tristream.learner.algorithms.registry import make_algorithm
from tristream.learner.checkpoints import (
    RunIdentity,
    newest_epoch,
    read_commit,
    remove_old_checkpoints,
    take_over,
    write_checkpoint,
)
from tristream.learner.outcomes import with_advantages
from tristream.learner.ranks import Ranks
from tristream.learner.training.trained_policy import load_policy
from tristream.runtime.errors import StoppedError, UserError
from tristream.runtime.run_folder import RunFolder
from tristream.wire.batches import Commit, CommittedStep
from tristream.wire.events import Interval, Ledger, LogPosition, PartitionOffset

IDENTITY = RunIdentity(run="test", seed=1, total_steps=9, model="m", world_size=1, zero_stage=0, precision="fp32")


def make_commit(step: int, epoch: int = 1) -> Commit:
    generator = random.Random(step)
    outcomes = tuple(make_outcome(generator, group, step) for group in make_groups(2, num_images=0, seed=step))
    ledger = Ledger(
        step=step,
        settled=(Interval(start=0, end=5),),
        num_dropped=1,
        dropped_checksum=2**64 - 1,
        epoch=epoch,
        position=LogPosition(log_id="log", offsets=(PartitionOffset(topic="rewards", partition=1, offset=7),)),
    )
    advantages = make_algorithm(AlgorithmSection()).advantages
    return Commit(ledger=ledger, steps=(CommittedStep(step=step, outcomes=with_advantages(outcomes, advantages)),))


class Writer:
    """A learner of one rank, as far as its checkpoints go."""

    def __init__(self, folder: RunFolder, epoch: int = 1) -> None:
        self.folder = folder
        self.epoch = epoch
        self.stop = threading.Event()
        self.waits: list[str] = []

    def write(
        self,
        step: int,
        save_state: Callable[[Path], None] = lambda target: (target / "state").touch(),
        check: Callable[[], None] = lambda: None,
    ) -> Commit:
        ranks = Ranks(0, 1, stop=self.stop, report_waiting=self.waits.append)
        commit = make_commit(step, self.epoch)
        write_checkpoint(self.folder, IDENTITY, commit, save_state, ranks=ranks, epoch=self.epoch, check=check)
        return commit


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    folder = RunFolder(tmp_path)
    take_over(folder, 1)
    return folder


def names_in(folder: RunFolder) -> list[str]:
    return sorted(path.name for path in folder.checkpoints.iterdir())


def test_ledger_and_pending_outcomes_come_back_exactly_as_they_were(folder: RunFolder) -> None:
    commit = Writer(folder).write(3)
    assert read_commit(folder.find_checkpoints()[-1], IDENTITY) == commit
    assert commit.steps[0].outcomes[0].rollouts[0].advantage != 0


def test_people_can_read_the_ledger(folder: RunFolder) -> None:
    Writer(folder).write(3)
    readable = json.loads((folder.checkpoint(3, 1) / "ledger.json").read_text(encoding="utf-8"))
    assert readable["ledger"]["settled"] == [{"end": "5"}]
    assert readable["steps"][0]["outcomes"][0]["fate"] == "FATE_TRAINED"


def test_a_ledger_that_is_none_is_refused_by_the_name_of_its_checkpoint(folder: RunFolder) -> None:
    Writer(folder).write(3)
    (folder.checkpoint(3, 1) / "ledger.json").write_text('{"commit_request": "CgA="}', encoding="utf-8")
    with pytest.raises(UserError, match=r"step-000003-e1: the checkpoint's ledger cannot be read"):
        read_commit(folder.checkpoint(3, 1), IDENTITY)


# Longer runs -------------------------------------------------------------------------------------


def identity(total_steps: int) -> RunIdentity:
    return RunIdentity(
        run="test", seed=1, total_steps=total_steps, model="m", world_size=1, zero_stage=0, precision="fp32"
    )


def test_a_run_may_become_longer_but_not_shorter_than_what_it_has_trained(folder: RunFolder) -> None:
    commit = Writer(folder).write(9)
    assert read_commit(folder.checkpoint(9, 1), identity(20)) == commit
    with pytest.raises(UserError, match=r"has trained 9 steps, and run\.steps is 8; give at least 9 steps"):
        read_commit(folder.checkpoint(9, 1), identity(8))


def test_checkpoints_beyond_a_million_steps_are_resumed_and_removed_in_the_order_of_their_steps(
    folder: RunFolder,
) -> None:
    for step in (999_990, 1_000_000, 1_000_010):
        Writer(folder).write(step)
    assert [path.name for path in folder.find_checkpoints()] == [
        "step-999990-e1", "step-1000000-e1", "step-1000010-e1"
    ]  # fmt: skip
    remove_old_checkpoints(folder, keep=2, epoch=1)
    assert [path.name for path in folder.find_checkpoints()] == ["step-1000000-e1", "step-1000010-e1"]


def test_the_number_of_ranks_may_change_and_the_zero_stage_may_not(folder: RunFolder) -> None:
    commit = Writer(folder).write(3)
    checkpoint = folder.checkpoint(3, 1)
    assert read_commit(checkpoint, replace(IDENTITY, world_size=4)) == commit
    with pytest.raises(UserError, match="zero_stage was 0 and is 2"):
        read_commit(checkpoint, replace(IDENTITY, world_size=4, zero_stage=2))


# A full disk -------------------------------------------------------------------------------------


def test_a_full_disk_is_waited_out_and_named_and_leaves_its_room_to_others_meanwhile(folder: RunFolder) -> None:
    writer = Writer(folder)
    left: list[list[str]] = []
    writer.write(3)

    def save_state(target: Path) -> None:
        if len(left) < 2:
            left.append(names_in(folder))
            (target / "half").touch()
            raise OSError(errno.ENOSPC, "No space left on device")
        (target / "state").write_text("whole")

    writer.write(4, save_state)
    assert writer.waits == [f"space at {folder.checkpoints}"] * 2
    assert left == [["epoch-1", "step-000003-e1", "step-000004-e1.tmp"]] * 2
    assert names_in(folder) == ["epoch-1", "step-000003-e1", "step-000004-e1"]
    assert sorted(path.name for path in folder.checkpoint(4, 1).iterdir()) == [
        "ledger.json", "rng-0.bin", "run.json", "state"
    ]  # fmt: skip


def test_a_stop_while_the_disk_is_full_leaves_the_checkpoint_before_and_nothing_else(folder: RunFolder) -> None:
    writer = Writer(folder)
    writer.write(3)
    writer.stop.set()

    def save_state(_target: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(StoppedError):
        writer.write(4, save_state)
    assert names_in(folder) == ["epoch-1", "step-000003-e1"]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 4 MiB."""
    folder = tmp_path / "small"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)]
    if subprocess.run(command, capture_output=True, check=False).returncode != 0:
        pytest.skip("needs the right to mount")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.parametrize("free_kib", [0, 8, 40, 1000])
def test_a_real_full_disk_is_told_from_other_errors_wherever_it_strikes(small_disk: Path, free_kib: int) -> None:
    folder = RunFolder(small_disk)
    take_over(folder, 1)
    ballast, disk = small_disk / "ballast", os.statvfs(small_disk)
    ballast.write_bytes(bytes(disk.f_bavail * disk.f_frsize - free_kib * 1024))
    writer = Writer(folder)

    def save_state(target: Path) -> None:
        torch.save({"weights": torch.zeros(300_000)}, target / "state.pt")

    with ThreadPoolExecutor(1) as pool:
        written = pool.submit(writer.write, 4, save_state)
        deadline = time.monotonic() + 60
        while not writer.waits and not written.done() and time.monotonic() < deadline:
            time.sleep(0.01)
        ballast.unlink()
        written.result(timeout=60)
    assert set(writer.waits) == {f"space at {folder.checkpoints}"}
    assert torch.load(folder.checkpoint(4, 1) / "state.pt")["weights"].shape == (300_000,)


# Two learners ------------------------------------------------------------------------------------


def test_the_newest_learner_has_the_newest_checkpoint_whatever_its_step(folder: RunFolder) -> None:
    Writer(folder, 1).write(30)
    take_over(folder, 2)
    Writer(folder, 2).write(20)
    assert [path.name for path in folder.find_checkpoints()] == ["step-000030-e1", "step-000020-e2"]
    assert newest_epoch(folder) == 2


def test_one_that_was_frozen_while_it_wrote_neither_ends_it_nor_harms_its_successor(folder: RunFolder) -> None:
    old, new = Writer(folder, 1), Writer(folder, 2)
    old.write(10)

    def freeze(target: Path) -> None:
        (target / "half").touch()
        take_over(folder, 2)
        assert not target.exists()
        new.write(20)

    with pytest.raises(UserError, match="a learner of epoch 2 has taken over, and this one is of epoch 1"):
        old.write(20, freeze)
    assert names_in(folder) == ["epoch-2", "step-000010-e1", "step-000020-e2"]


def test_one_that_was_frozen_before_the_last_rename_cannot_rename_any_more(folder: RunFolder) -> None:
    old = Writer(folder, 1)
    old.write(10)
    with pytest.raises(UserError, match="epoch 2 has taken over"):
        old.write(20, check=lambda: take_over(folder, 2))
    assert names_in(folder) == ["epoch-2", "step-000010-e1"]


def test_a_lease_that_is_lost_ends_a_checkpoint_before_it_is_one(folder: RunFolder) -> None:
    def check() -> None:
        raise UserError("host-2 has taken over", where="run test", remedy="stop it")

    with pytest.raises(UserError, match="host-2 has taken over"):
        Writer(folder, 1).write(10, check=check)
    assert names_in(folder) == ["epoch-1"]


def test_one_that_wakes_up_late_removes_no_checkpoint_and_no_unfinished_one_of_its_successor(
    folder: RunFolder,
) -> None:
    for step in (10, 20):
        Writer(folder, 1).write(step)
    take_over(folder, 2)
    for step in (30, 40):
        Writer(folder, 2).write(step)
    (folder.checkpoints / "step-000050-e2.tmp").mkdir()
    before = names_in(folder)
    with pytest.raises(UserError, match="epoch 2 has taken over"):
        remove_old_checkpoints(folder, keep=1, epoch=1)
    with pytest.raises(UserError, match="epoch 2 has taken over"):
        take_over(folder, 1)
    with pytest.raises(UserError, match="epoch 2 has taken over"):
        Writer(folder, 1).write(30)
    assert names_in(folder) == before


def test_taking_over_removes_what_earlier_learners_left_unfinished(folder: RunFolder) -> None:
    Writer(folder, 1).write(3)
    (folder.checkpoints / "step-000004-e1.tmp").mkdir()
    (folder.checkpoints / "step-000003.old").mkdir()
    assert folder.find_checkpoints()[-1].name == "step-000003-e1"
    take_over(folder, 2)
    assert names_in(folder) == ["epoch-2", "step-000003-e1"]


def test_a_prefix_that_freezes_nothing_is_refused(vision_checkpoint: Path) -> None:
    with pytest.raises(UserError, match=r"'visual\.' matches no parameter"):
        load_policy(vision_checkpoint, precision="fp32", freeze=["visual."], logprob_chunk_tokens=8)

import errno
import json
import random
from pathlib import Path

import pytest

from training_groups import make_groups, make_outcome
from tristream.config.algorithms import GrpoSection
from tristream.learner.algorithms.registry import make_algorithm
from tristream.learner.checkpoints import RunIdentity, read_commit, remove_old_checkpoints, write_checkpoint
from tristream.learner.outcomes import with_advantages
from tristream.learner.training.trained_policy import load_policy
from tristream.runtime.errors import UserError
from tristream.runtime.run_folder import RunFolder
from tristream.wire.batches import Commit, CommittedStep
from tristream.wire.events import Interval
from tristream.wire.ledger import Ledger, PartitionOffset

IDENTITY = RunIdentity(run="test", seed=1, total_steps=9, model="m", world_size=1, zero_stage=0, precision="fp32")


def make_commit(step: int) -> Commit:
    generator = random.Random(step)
    outcomes = tuple(make_outcome(generator, group, step) for group in make_groups(2, num_images=0, seed=step))
    ledger = Ledger(
        step=step,
        settled=(Interval(start=0, end=5),),
        dropped=(Interval(start=2, end=3),),
        offsets=(PartitionOffset(topic="rewards", partition=1, offset=7),),
    )
    advantages = make_algorithm(GrpoSection()).advantages
    return Commit(ledger=ledger, steps=(CommittedStep(step=step, outcomes=with_advantages(outcomes, advantages)),))


def write(folder: RunFolder, step: int, content: str = "state") -> Commit:
    def save_state(target: Path) -> None:
        if content == "full":
            raise OSError(errno.ENOSPC, "No space left on device")
        (target / "state").write_text(content)

    commit = make_commit(step)
    write_checkpoint(folder, IDENTITY, commit, save_state, rank=0, barrier=lambda: None)
    return commit


def names_in(folder: RunFolder) -> list[str]:
    return sorted(path.name for path in folder.checkpoints.iterdir())


def test_ledger_and_pending_outcomes_come_back_exactly_as_they_were(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    commit = write(folder, 3)
    assert read_commit(folder.find_checkpoints()[-1], IDENTITY) == commit
    assert commit.steps[0].outcomes[0].rollouts[0].advantage != 0


def test_people_can_read_the_ledger(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    write(folder, 3)
    readable = json.loads((folder.checkpoint(3) / "ledger.json").read_text(encoding="utf-8"))
    assert readable["ledger"]["settled"] == [{"end": "5"}]
    assert readable["steps"][0]["outcomes"][0]["fate"] == "FATE_TRAINED"


def test_a_ledger_that_is_none_is_refused_by_the_name_of_its_checkpoint(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    write(folder, 3)
    (folder.checkpoint(3) / "ledger.json").write_text('{"commit_request": "CgA="}', encoding="utf-8")
    with pytest.raises(UserError, match=r"step-000003: the checkpoint's ledger cannot be read"):
        read_commit(folder.checkpoint(3), IDENTITY)


def test_a_full_disk_leaves_the_checkpoint_before_and_nothing_else(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    write(folder, 3)
    with pytest.raises(UserError, match="disk is full"):
        write(folder, 4, "full")
    with pytest.raises(UserError, match="disk is full"):
        write(folder, 3, "full")
    assert names_in(folder) == ["step-000003"]
    assert (folder.checkpoint(3) / "state").read_text() == "state"


def test_an_unfinished_checkpoint_is_not_found_and_is_removed(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    for step in (1, 2, 3):
        write(folder, step)
    (folder.checkpoints / "step-000004.tmp").mkdir()
    (folder.checkpoints / "step-000003.old").mkdir()
    assert folder.find_checkpoints()[-1].name == "step-000003"
    remove_old_checkpoints(folder, keep=2)
    assert names_in(folder) == ["step-000002", "step-000003"]


def test_a_checkpoint_written_again_replaces_the_one_before(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    write(folder, 3)
    write(folder, 3, "again")
    assert names_in(folder) == ["step-000003"]
    assert (folder.checkpoint(3) / "state").read_text() == "again"


def test_a_prefix_that_freezes_nothing_is_refused(vision_checkpoint: Path) -> None:
    with pytest.raises(UserError, match=r"'visual\.' matches no parameter"):
        load_policy(vision_checkpoint, precision="fp32", freeze=["visual."], logprob_chunk_tokens=8)

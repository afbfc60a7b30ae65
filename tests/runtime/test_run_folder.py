"""The run folder knows where everything is, and which checkpoints are whole."""

from pathlib import Path

import pytest

from tristream.runtime.run_folder import RunFolder, checkpoint_epoch, checkpoint_step, ledger_file


def test_nothing_is_made_by_asking_and_no_two_paths_are_the_same(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "demo")
    names = [name for name, value in vars(RunFolder).items() if isinstance(value, property)]
    paths = [getattr(folder, name) for name in names] + [folder.checkpoint(1), folder.log("learner")]
    assert len(set(paths)) == len(paths) > 10
    assert all(path.is_relative_to(tmp_path / "demo") for path in paths)
    assert list(tmp_path.iterdir()) == []
    assert folder.find_checkpoints() == []
    assert str(folder) == str(tmp_path / "demo")


def test_whole_checkpoints_are_found_oldest_first(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    for step in (20, 3, 1_000_000, 999_990, 100):
        folder.checkpoint(step).mkdir(parents=True)
        ledger_file(folder.checkpoint(step)).touch()
    folder.checkpoint(50).mkdir()  # without a ledger
    for name in ("step-000060.tmp", "step-1000070.old", "step-000080-e2.tmp", "other", "step-x.tmp", "step-000090-e"):
        (folder.checkpoints / name).mkdir()
        ledger_file(folder.checkpoints / name).touch()
    assert [checkpoint_step(path) for path in folder.find_checkpoints()] == [3, 20, 100, 999_990, 1_000_000]
    unfinished = [path.name for path in folder.find_unfinished_checkpoints()]
    assert unfinished == ["step-000060.tmp", "step-000080-e2.tmp", "step-1000070.old"]


def test_a_checkpoint_of_an_earlier_learner_never_comes_after_one_of_its_successor(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    for step, epoch in ((30, 2), (999, 0), (10, 10), (40, 2), (1_000_000, 9), (20, 10)):
        folder.checkpoint(step, epoch).mkdir(parents=True)
        ledger_file(folder.checkpoint(step, epoch)).touch()
    found = [(checkpoint_epoch(path), checkpoint_step(path)) for path in folder.find_checkpoints()]
    assert found == [(0, 999), (2, 30), (2, 40), (9, 1_000_000), (10, 10), (10, 20)]


@pytest.mark.parametrize(
    ("name", "step", "epoch"),
    [
        ("step-000010", 10, 0),
        ("step-1234567", 1234567, 0),
        ("step-000010-e3", 10, 3),
        ("step-1234567-e12", 1234567, 12),
        ("step-000010.tmp", None, 0),
        ("step-000010-e3.old", None, 0),
        ("step-000010-e", None, 0),
        ("step-", None, 0),
    ],
)
def test_a_checkpoint_is_known_by_its_name(name: str, step: int | None, epoch: int) -> None:
    path = Path("checkpoints") / name
    assert (checkpoint_step(path), checkpoint_epoch(path)) == (step, epoch)
    if step is not None:
        assert RunFolder(Path()).checkpoint(step, epoch) == path

"""The run folder knows where everything is, and which checkpoints are whole."""

from pathlib import Path

import pytest

from tristream.runtime.run_folder import RunFolder, checkpoint_step, ledger_file


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
    for step in (20, 3, 1_000_000, 100):
        folder.checkpoint(step).mkdir(parents=True)
        ledger_file(folder.checkpoint(step)).touch()
    folder.checkpoint(50).mkdir()  # without a ledger
    for name in ("step-000060.tmp", "step-000070.old", "other"):
        (folder.checkpoints / name).mkdir()
        ledger_file(folder.checkpoints / name).touch()
    assert [checkpoint_step(path) for path in folder.find_checkpoints()] == [3, 20, 100, 1_000_000]


@pytest.mark.parametrize(
    ("name", "step"), [("step-000010", 10), ("step-1234567", 1234567), ("step-000010.tmp", None), ("step-", None)]
)
def test_a_checkpoint_is_known_by_its_name(name: str, step: int | None) -> None:
    assert checkpoint_step(Path("checkpoints") / name) == step

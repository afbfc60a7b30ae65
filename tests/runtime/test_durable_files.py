"""A file that is written durably is on its disk, under its name, before anybody is told of it."""

import os
from pathlib import Path

import pytest

from tristream.runtime.durable_files import remove_with_leftovers, write_durably


@pytest.fixture
def synced(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was synced, in order: paths at the time of the call."""
    paths: list[str] = []
    sync = os.fsync

    def record(descriptor: int) -> None:
        paths.append(str(Path(f"/proc/self/fd/{descriptor}").readlink()))
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", record)
    return paths


def test_the_file_its_name_and_every_new_folder_are_synced(tmp_path: Path, synced: list[str]) -> None:
    target = tmp_path / "weights" / "3" / "model"
    write_durably(target, lambda path: path.write_bytes(b"x"))
    assert target.read_bytes() == b"x"
    *folders, temporary, folder = synced
    assert set(folders) == {str(tmp_path), str(tmp_path / "weights")}
    assert temporary.startswith(f"{target}.")
    assert temporary.endswith(".tmp")
    assert folder == str(target.parent)
    assert list(target.parent.iterdir()) == [target]


def test_a_write_that_fails_leaves_what_was_there(tmp_path: Path) -> None:
    target = tmp_path / "file"
    target.write_bytes(b"before")

    def fail(path: Path) -> None:
        path.write_bytes(b"half")
        raise OSError("no space")

    with pytest.raises(OSError, match="no space"):
        write_durably(target, fail)
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"before"]


def test_removing_takes_the_folder_only_if_it_is_empty(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    for name in ("one", "two"):
        write_durably(folder / name, lambda path: path.write_bytes(b"x"))
    remove_with_leftovers(folder / "one")
    assert [path.name for path in folder.iterdir()] == ["two"]
    remove_with_leftovers(folder / "two")
    assert not folder.exists()
    with pytest.raises(FileNotFoundError):
        remove_with_leftovers(folder / "two")

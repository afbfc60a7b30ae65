"""Files that are whole or not there, also after the machine lost its power."""

import os
import shutil
import uuid
from collections.abc import Callable
from pathlib import Path

from tristream.runtime.hooks import reach

TEMPORARY_SUFFIX = ".tmp"


def write_durably(target: Path, write: Callable[[Path], object]) -> None:
    """Write a file beside its place, sync it, rename it, and sync the folder, made with its parents if need be.

    Raises:
        OSError: it could not be written; what was there before is as it was.
    """
    _make_folder(target.parent)
    temporary = target.with_name(f"{target.name}.{uuid.uuid4().hex}{TEMPORARY_SUFFIX}")
    try:
        write(temporary)
        sync(temporary)
        temporary.replace(target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    reach("store.renamed")
    sync(target.parent)


def remove_with_leftovers(target: Path) -> None:
    """Remove a file, what an interrupted ``write_durably`` left of it, and its folder if nothing else is in it.

    Raises:
        FileNotFoundError: the file is not there.
    """
    target.unlink()
    for leftover in target.parent.glob(f"{target.name}.*{TEMPORARY_SUFFIX}"):
        leftover.unlink(missing_ok=True)
    try:
        target.parent.rmdir()
    except OSError:
        pass  # something else is in it


def copy_to(source: Path) -> Callable[[Path], object]:
    """How ``write_durably`` writes a copy of a file."""
    return lambda target: shutil.copyfile(source, target)


def sync(path: Path) -> None:
    """Have the system write a file or the entries of a folder to its disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _make_folder(folder: Path) -> None:
    missing = [parent for parent in (folder, *folder.parents) if not parent.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for made in missing:
        sync(made.parent)

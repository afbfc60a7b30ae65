"""Files fetched from a store, kept on this machine: few of them, shared by all processes of a user.

A file is named by its sha256. Whoever uses one holds a shared lock on it, which ends with the process however that
dies; so a file without a lock may be removed, and a half one without a lock was left by somebody dead.
"""

import fcntl
import hashlib
import os
import tempfile
import uuid
from collections.abc import Callable
from io import BufferedReader
from pathlib import Path

from tristream.runtime.blob_errors import BlobError
from tristream.runtime.durable_files import TEMPORARY_SUFFIX
from tristream.runtime.hooks import reach

MAX_FILES = 3


def cache_folder() -> Path:
    """Where this user's fetched files are."""
    return Path(tempfile.gettempdir()) / f"tristream-blobs-{os.getuid()}"


class DownloadCache:
    """Keeps ``MAX_FILES`` files, more only while more are in use; one thread uses it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._in_use: BufferedReader | None = None
        """The file that was asked for last, with its lock."""

    def get(self, sha256: str, download: Callable[[Path], object]) -> Path:
        """The file of a checksum; it stays until another one is asked for.

        Args:
            sha256: checksum of the file.
            download: writes the file to a path.

        Raises:
            BlobError: what was downloaded has another checksum.
            OSError: the folder cannot be written.
        """
        self.release()
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = self._folder / sha256
        if (file := _open_locked(path)) is not None:
            if file_checksum(file) == sha256:
                os.utime(path)
                self._in_use = file
                return path
            file.close()
            path.unlink(missing_ok=True)
        self._make_room()
        self._in_use = self._download(path, download)
        return path

    def release(self) -> None:
        """Let the file that was asked for last be removed."""
        if self._in_use is not None:
            self._in_use.close()
            self._in_use = None

    def _download(self, path: Path, download: Callable[[Path], object]) -> BufferedReader:
        temporary, lock = self._open_temporary(path)
        try:
            with lock:
                download(temporary)
                file = _open_locked(temporary)
            if file is None:
                raise BlobError("it was downloaded, and nothing came")
            digest = file_checksum(file)
            if digest != path.name:
                file.close()
                raise BlobError(f"it has sha256 {digest[:12]}..., wanted {path.name[:12]}...")
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
        reach("store.downloaded")
        return file

    def _open_temporary(self, path: Path) -> tuple[Path, BufferedReader]:
        """An empty file to download to, locked."""
        while True:
            temporary = path.with_name(f"{path.name}.{uuid.uuid4().hex}{TEMPORARY_SUFFIX}")
            temporary.touch(exist_ok=False)
            if (lock := _open_locked(temporary)) is not None:
                return temporary, lock

    def _make_room(self) -> None:
        """Remove what is in nobody's use: all leftovers, and the oldest files until there is room for one more."""
        files = sorted(self._folder.iterdir(), key=_age_key)
        whole = [path for path in files if path.suffix != TEMPORARY_SUFFIX]
        num_over = len(whole) - (MAX_FILES - 1)
        for path in files:
            if path.suffix == TEMPORARY_SUFFIX:
                _remove_unused(path)
            elif num_over > 0:
                num_over -= _remove_unused(path)


def file_checksum(file: BufferedReader) -> str:
    """The sha256 of an open file, from its start, as hex digits."""
    file.seek(0)
    return hashlib.file_digest(file, "sha256").hexdigest()


def _open_locked(path: Path) -> BufferedReader | None:
    """Open a file for use, or None if there is none."""
    try:
        file = path.open("rb")
    except FileNotFoundError:
        return None
    fcntl.flock(file, fcntl.LOCK_SH)
    if os.fstat(file.fileno()).st_nlink == 0:  # removed between the two
        file.close()
        return None
    return file


def _remove_unused(path: Path) -> bool:
    """Remove a file unless it is in use; whether it was removed."""
    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink(missing_ok=True)
    except FileNotFoundError:
        return True
    except BlockingIOError:
        return False
    return True


def _age_key(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return 0.0

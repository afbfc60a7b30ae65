"""What the learner waits out instead of ending: a full disk, and a store that does not answer."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tristream.runtime.store import BlobError, StoreUnavailableError


class NoSpaceError(Exception):
    """There is no space left where something was to be written."""

    def __init__(self, where: str | Path) -> None:
        super().__init__(f"no space at {where}")
        self.where = str(where)


FULL_DISK_ERRNOS = (errno.ENOSPC, errno.EDQUOT)
FULL_DISK_WORDS = ("no space left", "disk quota exceeded", "file write failed", "unexpected pos")
"""What is left of the system's error in the errors of torch and of safetensors."""


def is_disk_full(error: BaseException) -> bool:
    """Whether an error of a write says that the disk is full."""
    if getattr(error, "errno", None) in FULL_DISK_ERRNOS:
        return True
    return any(words in str(error).lower() for words in FULL_DISK_WORDS)


@contextmanager
def needs_space(where: str | Path) -> Iterator[None]:
    """Turn errors of a full disk into one that says where space is needed.

    Raises:
        NoSpaceError: the disk is full.
    """
    try:
        yield
    except Exception as error:
        if not is_disk_full(error):
            raise
        raise NoSpaceError(where) from error


def awaited_by(error: Exception) -> str:
    """What has to come back before what failed can be done again, in words; empty if that helps nothing."""
    if isinstance(error, NoSpaceError):
        return f"space at {error.where}"
    if isinstance(error, StoreUnavailableError):
        return str(error)
    if isinstance(error, BlobError):
        return f"the store to be whole: {error}"
    return ""

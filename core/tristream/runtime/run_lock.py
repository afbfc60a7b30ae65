"""One process works in a run's folder at a time."""

import fcntl
from typing import TextIO

from tristream.runtime.errors import UserError
from tristream.runtime.run_folder import RunFolder


def lock_run(folder: RunFolder) -> TextIO:
    """Take the folder until the returned file is closed or the process ends.

    Raises:
        UserError: another process has it.
    """
    file = folder.lock.open("a", encoding="utf-8")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        raise UserError(
            "this run is going on in another process",
            where=str(folder),
            remedy="wait until it ends or stop it, or give another --set run.id=NAME",
        ) from None
    return file

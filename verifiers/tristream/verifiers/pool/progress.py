"""What a child is at, in memory that it shares with its parent: told for the price of a store.

The parent looks at it when a child is late or dead. A child may write nonsense there: it is only a claim about whom
to blame among the tasks that the child has.
"""

import fcntl
import mmap
import os
from struct import Struct

_LAYOUT = Struct("<QQ")
NUM_BYTES = mmap.PAGESIZE


class Progress:
    """The number of the task that runs, 0 if none does, and whether its truth is fine."""

    def __init__(self, file_descriptor: int) -> None:
        self._memory = mmap.mmap(file_descriptor, NUM_BYTES)

    def mark(self, number: int, *, is_truth_fine: bool) -> None:
        """Say what runs from here on."""
        _LAYOUT.pack_into(self._memory, 0, number, is_truth_fine)

    def read(self) -> tuple[int, bool]:
        """What runs, and whether its truth was parsed."""
        number, is_truth_fine = _LAYOUT.unpack_from(self._memory, 0)
        return number, bool(is_truth_fine)

    def close(self) -> None:
        """Let go of the memory."""
        self._memory.close()


def create_progress_file() -> int:
    """An anonymous file for a ``Progress``, as a file descriptor."""
    descriptor = os.memfd_create("tristream-progress", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(descriptor, NUM_BYTES)
    # A child that made the file shorter would have its parent killed when it looks.
    fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
    return descriptor

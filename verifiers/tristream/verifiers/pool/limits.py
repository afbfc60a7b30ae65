"""What a child may use up: the kernel holds it to that."""

import mmap
import resource
from pathlib import Path

from tristream.verifiers.pool.lane_spec import LaneSpec

MAX_FILES = 64
MAX_FILES_WITH_PROCESSES = 1024
MAX_PROCESSES = 512
"""Of the user that children run as, on the whole machine, for verifiers that start processes."""
MAX_FILE_BYTES_WITH_PROCESSES = 64 * 1024 * 1024
"""Longest file that such a verifier may write: semaphores and shared memory are files."""

MIB = 1024 * 1024


def limit_process(spec: LaneSpec) -> None:
    """Limit files, core dumps, and what is written; for good."""
    has_processes = spec.may_start_processes
    _lower(resource.RLIMIT_CORE, 0)
    _lower(resource.RLIMIT_NOFILE, MAX_FILES_WITH_PROCESSES if has_processes else MAX_FILES)
    _lower(resource.RLIMIT_FSIZE, MAX_FILE_BYTES_WITH_PROCESSES if has_processes else 0)
    _lower(resource.RLIMIT_NPROC, MAX_PROCESSES if has_processes else 0)


class MemoryLimit:
    """Limits the memory of this process to so much beyond what it has when this is made."""

    def __init__(self) -> None:
        self._num_bytes_at_start = num_mapped_bytes()
        self._mib = 0

    def set(self, mib: int) -> None:
        """Use another limit from here on."""
        if mib != self._mib:
            _hard = resource.getrlimit(resource.RLIMIT_AS)[1]
            resource.setrlimit(resource.RLIMIT_AS, (self._num_bytes_at_start + mib * MIB, _hard))
            self._mib = mib


def num_mapped_bytes(process: int | str = "self") -> int:
    """What a process, by its number, has mapped of memory, and so may hold at most.

    Raises:
        OSError: there is no such process.
    """
    return int(Path(f"/proc/{process}/statm").read_text().split()[0]) * mmap.PAGESIZE


def _lower(kind: int, limit: int) -> None:
    hard = resource.getrlimit(kind)[1]
    if hard != resource.RLIM_INFINITY:
        limit = min(limit, hard)
    resource.setrlimit(kind, (limit, limit))

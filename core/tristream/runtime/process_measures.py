"""What this process and its children take: processor time, memory, memory of GPUs; from ``/proc``, in microseconds."""

import os
import resource
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

_PROC = Path("/proc")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
_NUM_FIELDS_BEFORE_TIMES = 11
"""Fields of ``/proc/PID/stat`` between the name of the process and its four times."""


def read_process_measures() -> Mapping[str, float]:
    """``cpu_seconds`` since the start, ``memory_bytes`` resident, and ``gpu_memory_bytes`` where torch holds some.

    Children count, those that have ended for their time only; memory that processes share counts for each.
    """
    pids = list(_family(os.getpid()))
    measures = {
        "cpu_seconds": sum(map(_cpu_seconds, pids)) or sum(os.times()[:4]),
        "memory_bytes": float(sum(map(_memory_bytes, pids)) or _largest_memory_bytes()),
    }
    gpu_bytes = _gpu_memory_bytes()
    return measures if gpu_bytes is None else {**measures, "gpu_memory_bytes": float(gpu_bytes)}


def _family(pid: int) -> Iterator[int]:
    """A process and all that descend from it, where the kernel tells."""
    yield pid
    for path in (_PROC / str(pid) / "task").glob("*/children"):
        for child in _read(path).split():
            yield from _family(int(child))


def _cpu_seconds(pid: int) -> float:
    """Time of a process and of its children that have ended; 0 if it is gone."""
    fields = _read(_PROC / str(pid) / "stat").rpartition(")")[2].split()
    times = fields[_NUM_FIELDS_BEFORE_TIMES : _NUM_FIELDS_BEFORE_TIMES + 4]
    return sum(map(int, times)) / _TICKS_PER_SECOND


def _memory_bytes(pid: int) -> int:
    fields = _read(_PROC / str(pid) / "statm").split()
    return int(fields[1]) * _PAGE_BYTES if len(fields) > 1 else 0


def _largest_memory_bytes() -> int:
    """The most that this process ever held, where there is no ``/proc``."""
    size = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return size if sys.platform == "darwin" else size * 1024


def _gpu_memory_bytes() -> int | None:
    """What torch has reserved on all GPUs of this process; None where it has none. Nothing is imported for it."""
    torch = sys.modules.get("torch")
    cuda = getattr(torch, "cuda", None)
    if cuda is None or not cuda.is_initialized():
        return None
    return sum(int(cuda.memory_reserved(number)) for number in range(cuda.device_count()))


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""  # it has ended

"""Memory that a package holds, whatever other threads of the tests allocate meanwhile."""

import gc
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager

NUM_FRAMES = 8
"""Calls that a trace remembers: the package may be some calls above the allocation."""


@contextmanager
def held_bytes_of(package: str) -> Iterator[Callable[[], int]]:
    """A function that says how many bytes are held that code of ``tristream.PACKAGE`` allocated within the block."""
    ours = tracemalloc.Filter(True, f"*/tristream/{package}/*", all_frames=True)

    def measure() -> int:
        gc.collect()
        return sum(trace.size for trace in tracemalloc.take_snapshot().filter_traces([ours]).traces)

    tracemalloc.start(NUM_FRAMES)
    try:
        yield measure
    finally:
        tracemalloc.stop()

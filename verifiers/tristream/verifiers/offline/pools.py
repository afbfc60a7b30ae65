"""A pool for as long as something is judged, and how its end reads for people."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

from tristream.runtime.errors import TryAgainError
from tristream.verifiers.offline.served import Served
from tristream.verifiers.pool.pool import Pool
from tristream.verifiers.pool.tasks import PoolError


@contextmanager
def running_pool(served: Served, num_workers: int) -> Iterator[Pool]:
    """A pool of the verifiers at hand; it ends with the block.

    Raises:
        UserError: a verifier cannot be loaded.
        TryAgainError: the processes do not work.
    """
    pool = Pool(served.entry_points, num_processes=num_workers or usable_cores())
    try:
        pool.start()
        yield pool
    except PoolError as error:
        raise TryAgainError(f"the processes that judge do not work: {error}") from None
    finally:
        pool.stop()


def usable_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0))

"""``tristream serve-verifiers``: from the first request to a signal."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import FrameType

from tristream.verifiers.offline.address_file import address_file, new_job_id, reachable_address
from tristream.verifiers.offline.pools import running_pool
from tristream.verifiers.offline.questions import LineFormat
from tristream.verifiers.offline.served import Served
from tristream.verifiers.offline.serving import JudgeServer

LOOK_SECONDS = 0.5
SIGNALS = (signal.SIGINT, signal.SIGTERM)


def serve_until_told(
    line_format: LineFormat,
    served: Served,
    *,
    host: str,
    port: int,
    num_workers: int,
    address_folder: Path | None,
    job_id: str,
    say: Callable[[str], None],
) -> None:
    """Answer requests until SIGINT or SIGTERM; those in hand are answered then.

    Args:
        line_format: how requests ask.
        served: verifiers at hand.
        host: address to listen on.
        port: 0 for a free one.
        num_workers: processes that judge.
        address_folder: where the address file goes; None for no such file.
        job_id: its folder there; empty for a new one.
        say: is told where the server is, and that it has ended.

    Raises:
        UserError: a verifier cannot be loaded, or the address or the folder cannot be used.
        TryAgainError: the processes do not work.
    """
    with _told_to_stop() as stop, running_pool(served, num_workers) as pool:
        server = JudgeServer(host, port, line_format, pool)
        try:
            job = job_id or new_job_id()
            file = address_file(address_folder, job, host, server.port) if address_folder else nullcontext()
            with file:
                say(f"answering at http://{reachable_address(host)}:{server.port}/judge")
                if address_folder:
                    say(f"export REMOTE_REWARD_JOB_ID={job}")
                while not stop.wait(LOOK_SECONDS):
                    if server.failure is not None:
                        raise server.failure
        finally:
            server.stop()
        say(f"stopped after {server.num_answered} answers")


@contextmanager
def _told_to_stop() -> Iterator[threading.Event]:
    """Set by SIGINT and SIGTERM while the block runs."""
    stop = threading.Event()

    def note(_number: int, _frame: FrameType | None) -> None:
        stop.set()

    before = {number: signal.signal(number, note) for number in SIGNALS}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)

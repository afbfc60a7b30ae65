"""The end of a complete run: the monitor writes everything that was published, however long its database takes."""

import threading
import time
from collections.abc import Callable

from tristream.local.part_process import PartProcess
from tristream.local.status_files import read_status_files
from tristream.runtime.run_folder import RunFolder
from tristream.wire.events import Part, PartState, PartStatus

DATABASE = "ClickHouse"
"""How the monitor begins to say that it waits for its database."""
LOOK_SECONDS = 0.25
OLD_SECONDS = 10.0
"""A status file that is older says nothing; a monitor without one is asked to end after this time."""


def finish_monitor(
    process: PartProcess,
    folder: RunFolder,
    say: Callable[[str], None],
    stop: threading.Event,
    *,
    watch_broker: Callable[[], None],
) -> None:
    """Ask the monitor to write the rest and end, once it can, and wait for it.

    Args:
        process: the monitor's.
        folder: the run's.
        say: told what it waits for.
        stop: gives up, and leaves it as it is.
        watch_broker: starts the broker again, or raises what ends the run, as what is left is read from it.

    Raises:
        UserError: it refused its input, or crashes again and again.
        TryAgainError: the run's own broker ended, and its log with it.
    """
    seen = (process.pid, time.monotonic())
    asked: int | None = None
    while not stop.is_set() and process.exit_code != 0:
        watch_broker()
        news = process.watch()
        if news:
            say(news)
        if seen[0] != process.pid:
            seen = (process.pid, time.monotonic())
        status = _read_status(process, folder)
        is_silent = status is None and time.monotonic() - seen[1] > OLD_SECONDS
        if status is not None and status.waiting_for:
            say(f"writing what is left: the monitor waits for {status.waiting_for}")
        elif seen[0] not in (None, asked) and (is_silent or (status and status.state is PartState.READY)):
            asked = seen[0]
            process.ask_to_stop()
        stop.wait(LOOK_SECONDS)


def _read_status(process: PartProcess, folder: RunFolder) -> PartStatus | None:
    """What the monitor's process wrote lately; None if it cannot write its file."""
    fresh_ns = time.time_ns() - int(OLD_SECONDS * 1e9)
    for status in read_status_files(folder.status, ""):
        if status.part is Part.MONITOR and status.created_ns >= fresh_ns:
            is_its_own = status.instance == process.instance
            return status if is_its_own else None
    return None

"""One part of a run as a child process: started, watched, started again after a crash, stopped in order.

A part that ends with 75 (try again) is started again after a pause that grows, for as long as it takes. Other ends are
crashes, of which some in a row end the run; bad input (2) ends it at once.
"""

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from tristream.config.load import ENVIRONMENT_PREFIX
from tristream.runtime import hooks
from tristream.runtime.errors import TRY_AGAIN_EXIT_CODE, USER_ERROR_EXIT_CODE, UserError
from tristream.runtime.run_folder import RunFolder
from tristream.runtime.status import instance_name
from tristream.wire.events import Part

RESTART_PAUSE_SECONDS = 1.0
LONGEST_PAUSE_SECONDS = 30.0
MAX_CRASHES = 5
"""So many crashes in a row, each soon after the start, mean that starting again will not help."""
SOON_SECONDS = 30.0
MAX_LAST_WORDS_BYTES = 65_536
"""So much of the end of a log is searched for what a part said last."""
PR_SET_PDEATHSIG = 1

# Looked up before any fork: between fork and exec a child of a process with threads may take no lock.
_prctl = ctypes.CDLL(None).prctl if sys.platform == "linux" else None


class PartProcess:
    """A part's process, its log and its restarts.

    Args:
        part: which part.
        command: the command of ``tristream`` that it is.
        folder: the run's; the part reads its ``run.json``.
        finishes: whether the part ends by itself when its work is done.
        secrets: variables that give it what ``run.json`` leaves out; other keys of the run file are not taken from
            the environment, because ``run.json`` has them already.
        arguments: further words of the command.
        name: what it is called, and its log, where a part is more than one process.
        python: the Python that it runs in, if it is not this one.
    """

    def __init__(
        self,
        part: Part,
        command: str,
        folder: RunFolder,
        *,
        finishes: bool = False,
        secrets: Mapping[str, str] = MappingProxyType({}),
        arguments: Sequence[str] = (),
        name: str = "",
        python: Path | None = None,
    ) -> None:
        self.part = part
        self._name = name or part
        self._finishes = finishes
        self._log = folder.log(self._name)
        self._command = [
            str(python or sys.executable),
            "-m",
            "tristream.cli",
            command,
            "--run",
            str(folder.run_file),
            *arguments,
        ]
        self._process: subprocess.Popen[bytes] | None = None
        self._environment = {k: v for k, v in os.environ.items() if not k.startswith(ENVIRONMENT_PREFIX)} | {**secrets}
        self._restart_at = 0.0
        self._started = 0.0
        self._num_crashes = 0
        self._num_tries = 0
        """Ends in a row with which it asked to be started again."""

    def start(self) -> None:
        """Start the process; its output is appended to the part's log."""
        self._started = time.monotonic()
        self._process = spawn(self._command, self._log, self._environment)

    @property
    def pid(self) -> int | None:
        """Process id, if the process runs."""
        return self._process.pid if self._process is not None and self._process.poll() is None else None

    @property
    def exit_code(self) -> int | None:
        """How the process that was started last ended; None while it runs."""
        return None if self._process is None else self._process.poll()

    @property
    def instance(self) -> str:
        """What the process that was started last is called in its statuses; empty if there was none."""
        return "" if self._process is None else instance_name(self._process.pid)

    @property
    def is_done(self) -> bool:
        """Whether the part finished its work."""
        return self._finishes and self._process is not None and self._process.poll() == 0

    def watch(self) -> str | None:
        """Start the process again if it ended; returns a line about it if there is news.

        Raises:
            UserError: the part refused its input (exit code 2), or it crashes again and again.
        """
        if self._process is None or self.is_done:
            return None
        exit_code = self._process.poll()
        if exit_code is None:
            return None
        if exit_code == USER_ERROR_EXIT_CODE:
            raise UserError(self._last_words(), where=self._name, remedy=f"see {self._log}")
        now = time.monotonic()
        if self._restart_at == 0.0:
            return self._plan_restart(exit_code, now)
        if now >= self._restart_at:
            self._restart_at = 0.0
            self._environment.pop(hooks.VARIABLE, None)
            self.start()
        return None

    def _plan_restart(self, exit_code: int, now: float) -> str:
        is_soon = now - self._started < SOON_SECONDS
        if exit_code != TRY_AGAIN_EXIT_CODE:
            self._num_tries = 0
            self._count_crash(is_soon=is_soon)
            self._restart_at = now + RESTART_PAUSE_SECONDS
            return f"{self._name} ended with {_describe(exit_code)}; starting it again"
        self._num_tries = self._num_tries + 1 if is_soon else 1
        pause_seconds = min(RESTART_PAUSE_SECONDS * 2 ** min(self._num_tries - 1, 10), LONGEST_PAUSE_SECONDS)
        self._restart_at = now + pause_seconds
        return f"{self._name} is started again in {pause_seconds:.0f} s: {self._last_words()}"

    def ask_to_stop(self) -> None:
        """Ask the process to end."""
        if self._process is not None:
            self._process.terminate()

    def stop(self, timeout_seconds: float) -> None:
        """Ask the process to end, wait, and kill it with all its children if it does not."""
        if self._process is None:
            return
        self.ask_to_stop()
        try:
            self._process.wait(timeout_seconds)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    def _count_crash(self, *, is_soon: bool) -> None:
        self._num_crashes = self._num_crashes + 1 if is_soon else 1
        if self._num_crashes >= MAX_CRASHES:
            raise UserError(
                f"crashed {self._num_crashes} times in a row: {self._last_words()}",
                where=self._name,
                remedy=f"see {self._log}",
            )

    def _last_words(self) -> str:
        try:
            with self._log.open("rb") as file:
                file.seek(max(0, file.seek(0, os.SEEK_END) - MAX_LAST_WORDS_BYTES))
                lines = file.read().decode(errors="replace").strip().splitlines()
        except OSError:
            lines = []
        errors = [line for line in lines if line.startswith("tristream: ")]
        return (errors or lines or ["it left no words"])[-1].removeprefix("tristream: ")


def spawn(command: Sequence[str], log: Path, environment: Mapping[str, str] | None = None) -> "subprocess.Popen[bytes]":
    """Start a child in a session of its own; it ends when this process dies.

    Its output is appended to ``log``; where that cannot be written the output is lost, and the child works.
    """
    try:
        file = log.open("ab")
    except OSError:
        file = Path(os.devnull).open("ab")  # noqa: SIM115 - closed below
    with file:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            env=environment,
            start_new_session=True,
            preexec_fn=_end_with_parent,  # noqa: PLW1509 - it takes no lock
        )


def _end_with_parent() -> None:
    """Ask Linux to end this child when its parent dies, so that a killed run leaves nothing behind."""
    if _prctl is not None:
        _prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def _describe(exit_code: int) -> str:
    return f"signal {signal.Signals(-exit_code).name}" if exit_code < 0 else f"exit code {exit_code}"

"""One part of a run as a child process: started, watched, started again after a crash, stopped in order."""

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from tristream.runtime import hooks
from tristream.runtime.errors import UserError
from tristream.runtime.run_folder import RunFolder
from tristream.runtime.status import instance_name
from tristream.wire.events import Part

USER_ERROR_EXIT_CODE = 2
RESTART_PAUSE_SECONDS = 1.0
MAX_CRASHES = 5
"""So many crashes in a row, each soon after the start, mean that starting again will not help."""
SOON_SECONDS = 30.0
PR_SET_PDEATHSIG = 1

# Looked up before any fork: between fork and exec a child of a process with threads may take no lock.
_prctl = ctypes.CDLL(None).prctl if sys.platform == "linux" else None


class PartProcess:
    """A part's process, its log and its restarts."""

    def __init__(self, part: Part, command: str, folder: RunFolder, *, finishes: bool = False) -> None:
        self.part = part
        self._finishes = finishes
        """Whether the part ends by itself when its work is done."""
        self._log = folder.log(part)
        self._command = [sys.executable, "-m", "tristream.cli", command, "--run", str(folder.run_file)]
        self._process: subprocess.Popen[bytes] | None = None
        self._environment = dict(os.environ)
        self._restart_at = 0.0
        self._started = 0.0
        self._num_crashes = 0

    def start(self) -> None:
        """Start the process; its output is appended to the part's log."""
        self._started = time.monotonic()
        self._process = spawn(self._command, self._log, self._environment)

    @property
    def pid(self) -> int | None:
        """Process id, if the process runs."""
        return self._process.pid if self._process is not None and self._process.poll() is None else None

    @property
    def instance(self) -> str:
        """What the process that was started last is called in its statuses; empty if there was none."""
        return "" if self._process is None else instance_name(self._process.pid)

    @property
    def is_done(self) -> bool:
        """Whether the part finished its work."""
        return self._finishes and self._process is not None and self._process.poll() == 0

    def watch(self) -> str | None:
        """Start the process again if it crashed; returns a line about it if there is news.

        Raises:
            UserError: the part refused its input (exit code 2), or it crashes again and again.
        """
        if self._process is None or self.is_done:
            return None
        exit_code = self._process.poll()
        if exit_code is None:
            return None
        if exit_code == USER_ERROR_EXIT_CODE:
            raise UserError(self._last_words(), where=self.part, remedy=f"see {self._log}")
        now = time.monotonic()
        if self._restart_at == 0.0:
            self._count_crash(now)
            self._restart_at = now + RESTART_PAUSE_SECONDS
            return f"{self.part} ended with {_describe(exit_code)}; starting it again"
        if now >= self._restart_at:
            self._restart_at = 0.0
            self._environment.pop(hooks.VARIABLE, None)
            self.start()
        return None

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

    def _count_crash(self, now: float) -> None:
        self._num_crashes = self._num_crashes + 1 if now - self._started < SOON_SECONDS else 1
        if self._num_crashes >= MAX_CRASHES:
            raise UserError(
                f"crashed {self._num_crashes} times in a row: {self._last_words()}",
                where=self.part,
                remedy=f"see {self._log}",
            )

    def _last_words(self) -> str:
        lines = self._log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        errors = [line for line in lines if line.startswith("tristream: ")]
        return (errors or lines or ["it refused its input"])[-1].removeprefix("tristream: ")


def spawn(command: Sequence[str], log: Path, environment: Mapping[str, str] | None = None) -> "subprocess.Popen[bytes]":
    """Start a child in a session of its own, its output appended to ``log``; it ends when this process dies."""
    with log.open("ab") as file:
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

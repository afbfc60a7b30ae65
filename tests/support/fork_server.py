"""Starts processes as ``python -m MODULE`` does, but forked from one that has imported everything heavy already.

A test that starts the same parts a hundred times would spend its time with imports. The server is a process without
threads; it reads requests as lines of JSON, and tells on its output which process it started and with what it ended:

    {"command": ["-m", "tristream.cli", "learn"], "environment": {}, "log": "FILE"}  ->  started 17  ...  ended 17 -9
"""

import gc
import importlib
import json
import os
import queue
import runpy
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

ROOT = Path(__file__).parents[2]
PRELOADED = (
    "bench.null_stream.engine",
    "tristream.assembler.main",
    "tristream.cli.main",
    "tristream.config.load",
    "tristream.dispatcher.main",
    "tristream.learner.learner",
    "tristream.learner.main",
    "tristream.producer.producer",
)
START_SECONDS = 120.0


class ForkedProcess:
    """A process of the server; it has what is needed of ``subprocess.Popen``."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._has_ended = threading.Event()

    def poll(self) -> int | None:
        """Its exit code, as ``subprocess`` gives it, or None while it lives."""
        return self.returncode

    def wait(self, timeout_seconds: float | None = None) -> int:
        """Wait for its end.

        Raises:
            TimeoutError: it did not end in time.
        """
        if not self._has_ended.wait(timeout_seconds):
            raise TimeoutError(f"process {self.pid} does not end")
        assert self.returncode is not None, "it has ended"
        return self.returncode

    def send_signal(self, number: signal.Signals) -> None:
        """Send a signal, if it lives."""
        if self.returncode is None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def end_with(self, returncode: int) -> None:
        """Note its end."""
        self.returncode = returncode
        self._has_ended.set()


class ForkServer:
    """The process that forks others, which end with it; used by one thread."""

    def __init__(self) -> None:
        self._server = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT
        )
        self._started: queue.Queue[ForkedProcess] = queue.Queue()
        self._processes: dict[int, ForkedProcess] = {}
        threading.Thread(target=self._follow, daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server.stdin is not None, "it is a pipe"
        self._server.stdin.close()
        self._server.wait()

    def start(self, command: Sequence[str], environment: Mapping[str, str], log: Path) -> ForkedProcess:
        """Start a process: ``-m``, a module and its arguments; its output is appended to the log."""
        assert self._server.stdin is not None, "it is a pipe"
        request = {"command": list(command), "environment": dict(environment), "log": str(log)}
        self._server.stdin.write(f"{json.dumps(request)}\n")
        self._server.stdin.flush()
        return self._started.get(timeout=START_SECONDS)

    def _follow(self) -> None:
        assert self._server.stdout is not None, "it is a pipe"
        for line in self._server.stdout:
            what, pid, *code = line.split()
            if what == "started":
                process = self._processes[int(pid)] = ForkedProcess(int(pid))
                self._started.put(process)
            else:
                self._processes.pop(int(pid)).end_with(int(code[0]))


# In the server -----------------------------------------------------------------------------------


def serve() -> None:
    """Fork until the input ends, then end all that was forked."""
    sys.path[0] = str(ROOT)
    for module in PRELOADED:
        importlib.import_module(module)
    gc.freeze()  # else every process would copy all of it at its end, to see that nothing of it is garbage
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # its input ends when the test does, and then so do all processes
    woken, waker = os.pipe()
    os.set_blocking(waker, False)
    signal.set_wakeup_fd(waker)
    signal.signal(signal.SIGCHLD, lambda _number, _frame: None)
    living: set[int] = set()
    requests = os.fdopen(0, "rb", buffering=0)  # with a buffer, select would not see what is in it
    while True:
        ready, _, _ = select.select([0, woken], [], [])
        if woken in ready:
            os.read(woken, 4096)
            _tell_ends(living)
        if 0 in ready:
            line = requests.readline()
            if not line:
                break
            pid = os.fork()
            if pid == 0:
                _become(json.loads(line))
            living.add(pid)
            print("started", pid, flush=True)
    for pid in living:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def _tell_ends(living: set[int]) -> None:
    with suppress(ChildProcessError):
        while (ended := os.waitpid(-1, os.WNOHANG))[0]:
            living.discard(ended[0])
            print("ended", ended[0], os.waitstatus_to_exitcode(ended[1]), flush=True)


def _become(request: Mapping[str, Any]) -> None:
    """Be the process that was asked for; does not return."""
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.setsid()
    log = os.open(request["log"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for source, target in ((nothing, 0), (log, 1), (log, 2)):
        os.dup2(source, target)
    os.environ.clear()
    os.environ.update(request["environment"])
    _, module, *arguments = request["command"]
    sys.argv = [module, *arguments]
    sys.exit(_run(module))


def _run(module: str) -> int:
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except SystemExit as end:
        if end.code is None or isinstance(end.code, int):
            return end.code or 0
        print(end.code, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    serve()

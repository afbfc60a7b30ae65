"""The pool's side of its fork server."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import Any

from tristream.verifiers.pool.channel import Channel
from tristream.verifiers.pool.lane_spec import LaneSpec
from tristream.verifiers.pool.progress import Progress, create_progress_file
from tristream.verifiers.pool.tasks import PoolError

START_SECONDS = 120.0
"""A fork server or child that is not there by then cannot be started."""
STOP_SECONDS = 5.0

_ENVIRONMENT = {
    # One child uses one core; more threads would only get in each other's way, and children may not start any.
    **dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS"), "1"),
    "MALLOC_ARENA_MAX": "2",
    # The order of sets is the same in every child, so that a score that depends on it is too.
    "PYTHONHASHSEED": "0",
}
_MAX_EVENT_BYTES = 64 * 1024


class ForkClient:
    """A fork server of our own: it starts with this and ends with ``stop``."""

    def __init__(self, built_ins: Iterable[str]) -> None:
        """Start the server and wait until it has loaded the built-in verifiers.

        Raises:
            PoolError: it does not start.
        """
        self.control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                [
                    sys.executable,
                    "-c",
                    "from tristream.verifiers.pool.fork_server import main; main()",
                    str(theirs.fileno()),
                ],
                pass_fds=[theirs.fileno()],
                env={**os.environ, **_ENVIRONMENT, "PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry)},
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )
        hello = {"sys_path": sys.path, "built_ins": list(built_ins)}
        try:
            self.control.settimeout(START_SECONDS)
            self.control.sendall(json.dumps(hello).encode())
            answer = self.control.recv(_MAX_EVENT_BYTES)
        except OSError:
            answer = b""
        if not answer:
            self.stop()
            raise PoolError("the process that forks the children does not start; its own words are above")
        self.control.setblocking(False)
        _, self.refused = json.loads(answer)

    def spawn(self, number: int, spec: LaneSpec) -> tuple[Channel, Progress]:
        """Have a child forked; it may be told things at once."""
        ours, theirs = socket.socketpair()
        descriptor = create_progress_file()
        progress = Progress(descriptor)
        try:
            with theirs:
                message = json.dumps(["spawn", number, spec.to_json()]).encode()
                self._send(lambda: socket.send_fds(self.control, [message], [theirs.fileno(), descriptor]))
        finally:
            os.close(descriptor)
        return Channel(ours), progress

    def signal(self, number: int, signal_number: int) -> None:
        """Send a child a signal, if it still lives."""
        message = json.dumps(["signal", number, int(signal_number)]).encode()
        self._send(lambda: self.control.send(message))

    def lower(self, number: int) -> None:
        """Let everything else have the CPU before a child."""
        message = json.dumps(["lower", number]).encode()
        self._send(lambda: self.control.send(message))

    def events(self) -> Iterator[tuple[str, int, int]]:
        """What the server says, as far as it has come: ``started`` with the pid, ``ended`` with the status.

        Raises:
            PoolError: the server is gone.
        """
        while True:
            try:
                message = self.control.recv(_MAX_EVENT_BYTES)
            except BlockingIOError:
                return
            except OSError:
                message = b""
            if not message:
                raise PoolError("the process that forks the children is gone")
            kind, number, value = json.loads(message)
            yield kind, number, value

    def stop(self) -> None:
        """Kill the children and end the server."""
        with suppress(OSError):
            self.control.shutdown(socket.SHUT_RDWR)
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self.control.close()

    def _send(self, send: Any) -> None:  # noqa: ANN401 - a call that sends
        """Send, waiting for room in the socket: the server reads all the time.

        Raises:
            PoolError: the server is gone.
        """
        try:
            self.control.settimeout(STOP_SECONDS)
            send()
        except OSError as error:
            raise PoolError(f"the process that forks the children is gone: {error}") from None
        finally:
            with suppress(OSError):
                self.control.setblocking(False)

"""The process that forks the children of a pool: small, single-threaded, with the built-in verifiers loaded.

It alone signals children and learns of their ends, so no signal ever meets a process that took over a number. When
the pool's process is gone, so is its end of the connection: all children are killed, and it ends.

========================================== ============================================================
from the pool                              meaning
========================================== ============================================================
``["spawn", number, spec]``                fork a child; comes with its socket and the file of its progress
``["signal", number, signal]``             send it a signal; killing it kills all that it started
``["lower", number]``                      let everything else have the CPU first
========================================== ============================================================

To the pool it says ``["ready", refused walls]``, ``["started", number, pid]`` and ``["ended", number, status]``.
"""

import gc
import json
import os
import select
import signal
import socket
import sys
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from tristream.runtime.errors import UserError
from tristream.verifiers.loading import is_file, read_source
from tristream.verifiers.pool.child import run_child
from tristream.verifiers.pool.isolation import Walls, importable_paths
from tristream.verifiers.pool.lane_spec import LaneSpec
from tristream.verifiers.pool.limits import limit_process
from tristream.verifiers.pool.messages import FACTS_NUMBER, pack_frame, to_json
from tristream.verifiers.pool.preload import preload
from tristream.verifiers.pool.progress import Progress
from tristream.verifiers.pool.texts import describe_error

MAX_COMMAND_BYTES = 128 * 1024
LOW_PRIORITY = 15
"""So much nicer are children that have stood aside: they get about a thirtieth of the CPU time of others."""


class ForkServer:
    """Obeys a pool over a socket that keeps messages apart."""

    def __init__(self, control: socket.socket, walls: Walls) -> None:
        self._control = control
        self._walls = walls
        self._poll = select.poll()
        self._poll.register(control, select.POLLIN)
        self._pids: dict[int, int] = {}
        """By the number of the child."""
        self._numbers: dict[int, int] = {}
        """Of children, by the file descriptor that tells of their end."""
        self._sources: dict[str, bytes] = {}

    def run(self) -> None:
        """Serve until the pool hangs up, then leave no child."""
        try:
            while True:
                for descriptor, _ in self._poll.poll():
                    if descriptor != self._control.fileno():
                        self._bury(descriptor)
                    elif not self._obey():
                        return
        finally:
            for number in list(self._pids):
                self._signal(number, signal.SIGKILL)
            for descriptor in list(self._numbers):
                self._bury(descriptor)

    def _obey(self) -> bool:
        """Do what the pool says; False if it has hung up."""
        try:
            message, descriptors, _, _ = socket.recv_fds(self._control, MAX_COMMAND_BYTES, 2)
        except ConnectionError:
            message = b""
        if not message:
            return False
        command, number, *rest = json.loads(message)
        if command == "spawn":
            self._spawn(number, LaneSpec.from_json(rest[0]), descriptors)
        elif command == "signal":
            self._signal(number, rest[0])
        elif number in self._pids:
            _be_nicer(self._pids[number])
        return True

    def _spawn(self, number: int, spec: LaneSpec, descriptors: list[int]) -> None:
        self._read_sources(spec)
        pid = self._walls.fork()
        if pid == 0:
            try:
                self._become_child(spec, *descriptors)
            except BaseException as error:  # the pool says it
                os.write(descriptors[0], pack_frame(FACTS_NUMBER, to_json({"failure": describe_error(error)})))
            finally:
                os._exit(1)
        for descriptor in descriptors:
            os.close(descriptor)
        self._pids[number] = pid
        pid_descriptor = os.pidfd_open(pid)
        self._numbers[pid_descriptor] = number
        self._poll.register(pid_descriptor, select.POLLIN)
        self._tell("started", number, pid)

    def _read_sources(self, spec: LaneSpec) -> None:
        """Read files of verifiers once, so that later changes of them change nothing; children may not be let to."""
        for entry_point in spec.entry_points.values():
            if is_file(entry_point) and entry_point not in self._sources:
                with suppress(UserError):  # the child says it to the pool
                    self._sources[entry_point] = read_source(entry_point) or b""

    def _become_child(self, spec: LaneSpec, connection_descriptor: int, progress_descriptor: int) -> None:
        os.setsid()
        if not spec.may_use_network:
            self._walls.leave_network()
        nothing = os.open(os.devnull, os.O_RDWR)
        for standard in (0, 1, 2):
            os.dup2(nothing, standard)
        _close_all_but((connection_descriptor, progress_descriptor))
        limit_process(spec)
        self._walls.drop_rights()
        gc.enable()
        progress = Progress(progress_descriptor)
        os.close(progress_descriptor)
        run_child(spec, self._sources, socket.socket(fileno=connection_descriptor), progress)
        os._exit(0)

    def _signal(self, number: int, signal_number: int) -> None:
        pid = self._pids.get(number)
        if pid is None:
            return
        for send in (os.killpg, os.kill):
            with suppress(ProcessLookupError, PermissionError):  # it may not lead its group yet
                send(pid, signal_number)

    def _bury(self, descriptor: int) -> None:
        """Tell of the end of a child, and kill what it left."""
        number = self._numbers.pop(descriptor)
        self._poll.unregister(descriptor)
        os.close(descriptor)
        pid = self._pids.pop(number)
        _, status = os.waitpid(pid, 0)
        if not self._walls.holds_processes:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(pid, signal.SIGKILL)
            self._kill_orphans()
        self._tell("ended", number, os.waitstatus_to_exitcode(status))

    def _kill_orphans(self) -> None:
        """Kill processes of dead children: they have become ours."""
        known = set(self._pids.values())
        for pid in _children_of(os.getpid()) - known:
            with suppress(OSError):
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)

    def _tell(self, *message: Any) -> None:  # noqa: ANN401 - JSON values
        with suppress(ConnectionError):  # the pool is gone, which the next look at the connection tells
            self._control.sendall(json.dumps(message).encode())


def _close_all_but(kept: Iterable[int]) -> None:
    """Close all files but these and the standard ones."""
    start = 3
    for descriptor in sorted(kept):
        os.closerange(start, descriptor)
        start = descriptor + 1
    os.closerange(start, os.sysconf("SC_OPEN_MAX"))


def _children_of(parent: int) -> set[int]:
    found = set()
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError, ValueError, IndexError):
            if int(path.read_text().rpartition(")")[2].split()[1]) == parent:
                found.add(int(path.parent.name))
    return found


def _be_nicer(pid: int) -> None:
    niceness = min(19, os.nice(0) + LOW_PRIORITY)
    with suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, pid, niceness)
    with suppress(OSError):  # where the kernel schedules sessions, the niceness of a process means nothing outside
        Path(f"/proc/{pid}/autogroup").write_text(str(niceness))


def main() -> None:
    """Run as a process: the first message says what to load; the argument is the number of the socket."""
    control = socket.socket(fileno=int(sys.argv[1]))
    hello = json.loads(control.recv(MAX_COMMAND_BYTES))
    sys.path[:] = hello["sys_path"]
    preload(hello["built_ins"])
    gc.collect()
    gc.freeze()
    gc.disable()
    walls = Walls(importable_paths())
    control.sendall(json.dumps(["ready", walls.refused]).encode())
    ForkServer(control, walls).run()


if __name__ == "__main__":
    main()

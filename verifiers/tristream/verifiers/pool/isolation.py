"""The walls around a child: no root, no network, and nothing of it left when it is killed.

A wall that the kernel refuses is left out, and named once. Processes are walled in by a PID namespace: with its first
process, the child, all others of it die.
"""

import ctypes
import os
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000

NOBODY = 65534
CAP_DAC_READ_SEARCH = 2

_PR_SET_PDEATHSIG = 1
_PR_SET_KEEPCAPS = 8
_PR_SET_CHILD_SUBREAPER = 36
_PR_SET_NO_NEW_PRIVS = 38
_CAPABILITY_VERSION_3 = 0x20080522

_LIBC = ctypes.CDLL(None, use_errno=True)


class Walls:
    """What the kernel lets us put around children; made once, in the single-threaded process that forks them.

    Args:
        readable: files that children have to read.
    """

    def __init__(self, readable: list[Path]) -> None:
        self.refused: list[str] = []
        """What children can do though they should not, in words."""
        if os.geteuid() != 0 and self._try(_enter_user_namespace):
            _enter_user_namespace()
        self._no_network = self._make_empty_network()
        self._outer_processes = self._find_process_namespace()
        self._has_root = os.geteuid() == 0
        self._keeps_reading = False
        if self._has_root and not self._try(_become_nobody):
            self._has_root = False
            self.refused.append("they run as root")
        elif self._has_root and not self._try(lambda: _read_as_nobody(readable)):
            self._keeps_reading = True
            self.refused.append("they can read every file, as Python's own files here are for root alone")
        _prctl(_PR_SET_CHILD_SUBREAPER, 1)

    @property
    def holds_processes(self) -> bool:
        """Whether all that a child started ends with it."""
        return self._outer_processes is not None

    def fork(self) -> int:
        """Fork a child; 0 in the child, as ``os.fork``."""
        if self._outer_processes is None:
            return os.fork()
        _check(_LIBC.unshare(CLONE_NEWPID))
        pid = -1
        try:
            pid = os.fork()
        finally:
            if pid != 0:
                _check(_LIBC.setns(self._outer_processes, CLONE_NEWPID))
        return pid

    def leave_network(self) -> None:
        """Go where there is no network, for a child that may not use it."""
        if self._no_network is not None:
            _check(_LIBC.setns(self._no_network, CLONE_NEWNET))

    def drop_rights(self) -> None:
        """Become nobody, without any way back, and end with the fork server."""
        kept = (CAP_DAC_READ_SEARCH,) if self._keeps_reading else ()
        if self._has_root:
            _prctl(_PR_SET_KEEPCAPS, int(bool(kept)))
            _become_nobody()
        with suppress(OSError):
            _keep_capabilities(kept)
        _prctl(_PR_SET_NO_NEW_PRIVS, 1)
        _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)

    def _make_empty_network(self) -> int | None:
        """A namespace without a network, for all children: one for each would take its time."""
        descriptor = _open_namespace_of(lambda: _check(_LIBC.unshare(CLONE_NEWNET)), "net")
        if descriptor is None or not self._try(lambda: _check(_LIBC.setns(descriptor, CLONE_NEWNET))):
            self.refused.append("they can reach the network")
            return None
        return descriptor

    def _find_process_namespace(self) -> int | None:
        descriptor = os.open("/proc/self/ns/pid", os.O_RDONLY | os.O_CLOEXEC)

        def try_both() -> None:
            _check(_LIBC.unshare(CLONE_NEWPID))
            _check(_LIBC.setns(descriptor, CLONE_NEWPID))

        if self._try(try_both):
            return descriptor
        os.close(descriptor)
        return None

    def _try(self, action: Callable[[], object]) -> bool:
        """Whether an action works, tried in a process of its own: some cannot be undone."""
        pid = os.fork()
        if pid == 0:
            try:
                action()
            except BaseException:
                os._exit(1)
            os._exit(0)
        return os.waitpid(pid, 0)[1] == 0


def _open_namespace_of(enter: Callable[[], None], kind: str) -> int | None:
    """The namespace that a process is in after ``enter``, as a file descriptor; None if that fails."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        with suppress(BaseException):
            enter()
            os.write(writing, b"1")
            signal.pause()
        os._exit(1)
    os.close(writing)
    has_entered = os.read(reading, 1)
    descriptor = os.open(f"/proc/{pid}/ns/{kind}", os.O_RDONLY | os.O_CLOEXEC) if has_entered else None
    os.close(reading)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return descriptor


def _enter_user_namespace() -> None:
    """Get the rights of root over namespaces of our own, as ourselves; keeps the user."""
    uid, gid = os.geteuid(), os.getegid()
    _check(_LIBC.unshare(CLONE_NEWUSER))
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"{uid} {uid} 1")
    Path("/proc/self/gid_map").write_text(f"{gid} {gid} 1")


def _become_nobody() -> None:
    os.setgroups([])
    os.setresgid(NOBODY, NOBODY, NOBODY)
    os.setresuid(NOBODY, NOBODY, NOBODY)


def _read_as_nobody(paths: list[Path]) -> None:
    existing = [path for path in paths if path.exists()]
    _become_nobody()
    for path in existing:
        if path.is_dir():
            next(path.iterdir(), None)
        else:
            path.open("rb").close()


def importable_paths() -> list[Path]:
    """Where this process imports from, with a file of the standard library and one of ours."""
    return [Path(entry) for entry in sys.path if entry] + [Path(os.__file__), Path(__file__)]


def _keep_capabilities(kept: tuple[int, ...]) -> None:
    """Give up all capabilities but these."""
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    mask = sum(1 << capability for capability in kept)
    data = (ctypes.c_uint32 * 6)(mask, mask, 0, 0, 0, 0)  # effective, permitted, inheritable; of 32 capabilities each
    _check(_LIBC.capset(header, data))


def _prctl(option: int, value: int) -> None:
    _LIBC.prctl(option, ctypes.c_ulong(value), ctypes.c_ulong(0), ctypes.c_ulong(0), ctypes.c_ulong(0))


def _check(result: int) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))

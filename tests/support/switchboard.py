"""One address for whatever serves at the time, as a service of a cluster is: a TCP proxy with a target to change."""

import socket
import threading
from types import TracebackType
from typing import Self


class Switchboard:
    """Forwards connections to its target; a change of target ends those to the one before."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._target: tuple[str, int] | None = None
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        threading.Thread(target=self._accept, daemon=True).start()

    def connect_to(self, port: int) -> None:
        """Forward to this port of the machine from now on."""
        self._target = ("127.0.0.1", port)
        self._end_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._listener.close()
        self._end_all()

    def _end_all(self) -> None:
        with self._lock:
            ended, self._open = self._open, set()
        for end in ended:
            _end(end)

    def _accept(self) -> None:
        while True:
            try:
                inside, _ = self._listener.accept()
            except OSError:
                return  # closed
            threading.Thread(target=self._serve, args=(inside,), daemon=True).start()

    def _serve(self, inside: socket.socket) -> None:
        try:
            if self._target is None:
                raise ConnectionRefusedError
            outside = socket.create_connection(self._target, timeout=5)
            outside.settimeout(None)
        except OSError:
            inside.close()
            return
        with self._lock:
            self._open |= {inside, outside}
        threading.Thread(target=_pump, args=(inside, outside), daemon=True).start()
        _pump(outside, inside)
        with self._lock:
            self._open -= {inside, outside}


def _pump(source: socket.socket, target: socket.socket) -> None:
    try:
        while data := source.recv(65536):
            target.sendall(data)
    except OSError:
        pass
    _end(source)
    _end(target)


def _end(end: socket.socket) -> None:
    try:
        end.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass
    end.close()

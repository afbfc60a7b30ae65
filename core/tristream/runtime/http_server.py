"""A small HTTP server for trusted networks, as the page and the reward server are."""

import errno
import logging
from collections.abc import Callable
from http.server import ThreadingHTTPServer
from socketserver import TCPServer
from typing import TypeVar

from tristream.runtime.errors import UserError

LOG = logging.getLogger("tristream.http")

ServerT = TypeVar("ServerT", bound="QuietHTTPServer")


class QuietHTTPServer(ThreadingHTTPServer):
    """A server whose threads end with the process, and that makes no fuss of clients that go away."""

    daemon_threads = True

    def server_bind(self) -> None:
        """Take the address; HTTPServer would ask the name service for this host's name, which may take long."""
        TCPServer.server_bind(self)

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that went away is no error."""
        LOG.debug("connection of %s ended", client_address)


def listen(
    make: Callable[[tuple[str, int]], ServerT], host: str, port: int, *, host_key: str, port_key: str
) -> ServerT:
    """Make a server that listens.

    Args:
        make: makes it for an address.
        host: address of this machine.
        port: 0 for a free one.
        host_key: where people set the host, for the error.
        port_key: likewise.

    Raises:
        UserError: the address is taken or cannot be used.
    """
    try:
        return make((host, port))
    except (OSError, OverflowError) as error:
        number = error.errno if isinstance(error, OSError) else None
        if number == errno.EADDRINUSE:
            what, where, remedy = f"port {port} is in use", port_key, "choose another port, or 0 for a free one"
        elif number == errno.EACCES:
            what, where = f"port {port} is not allowed to this user", port_key
            remedy = "choose a port above 1023, or 0 for a free one"
        else:
            what, where = f"'{host}' is not an address of this machine", host_key
            remedy = "use 127.0.0.1, or 0.0.0.0 for all addresses"
        raise UserError(what, where=where, remedy=remedy) from None

"""The live page: a small HTTP server in the monitor's process, for browsers on trusted networks.

    browser thread 1 ─┐
    browser thread 2 ─┼─> Routes ─> AnswerCache (lanes, each with a client) ─> ClickHouse
    browser thread n ─┘

It only reads, needs nothing from outside, and every answer carries a Content-Security-Policy that forbids
the browser to load or send anything elsewhere.
"""

import logging
import threading
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler

from tristream.config.parts import MonitorSettings
from tristream.monitoring.page.answer_cache import AnswerCache, to_json
from tristream.monitoring.page.assets_of_page import PAGE_POLICY
from tristream.monitoring.page.parameters import RefusalError
from tristream.monitoring.page.routes import Response, Routes
from tristream.monitoring.store.client import Client
from tristream.runtime.http_server import QuietHTTPServer, listen

LOG = logging.getLogger("tristream.monitor")

SECURITY_HEADERS = {
    "Content-Security-Policy": PAGE_POLICY,
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
IDLE_SECONDS = 30.0
"""A silent connection is closed after this time."""


class Page:
    """A live page that is being served."""

    def __init__(self, server: "_Server", answers: AnswerCache, host: str) -> None:
        self._server = server
        self._answers = answers
        reachable = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1"}.get(host, host)
        self.url = f"http://{reachable}:{server.server_address[1]}/"
        """Address for browsers on this machine."""
        self._thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.1}, name="page")
        self._thread.start()

    def stop(self) -> None:
        """Serve no more, and close the clients."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
        self._answers.close()


def serve_page(settings: MonitorSettings, *clients: Client, on_look: Callable[[], None] = lambda: None) -> Page:
    """Serve the run's page at ``monitoring.http_host`` and ``monitoring.http_port``.

    Args:
        settings: the run.
        clients: the page's own, one for each ``Lane`` or fewer; ``Page.stop`` closes them.
        on_look: called, from any thread, whenever somebody looks.

    Raises:
        UserError: the address is taken or cannot be used.
    """
    answers = AnswerCache(*clients)
    host, port = settings.monitoring.http_host, settings.monitoring.http_port
    routes = Routes(settings, answers, on_look)
    server = listen(
        lambda address: _Server(address, routes),
        host,
        port,
        host_key="monitoring.http_host",
        port_key="monitoring.http_port",
    )
    return Page(server, answers, host)


class _Server(QuietHTTPServer):
    def __init__(self, address: tuple[str, int], routes: Routes) -> None:
        self.routes = routes
        super().__init__(address, _Handler)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = IDLE_SECONDS
    server: _Server

    def do_GET(self) -> None:
        try:
            response, status = self.server.routes.respond(self.path), HTTPStatus.OK
        except RefusalError as refusal:
            response, status = Response(body=to_json({"error": str(refusal)})), refusal.status
        except Exception as error:
            LOG.exception("the page failed to answer %s", self.path)
            reason, status = _explain(error)
            response = Response(body=to_json({"error": reason}))
        self._send(response, status)

    do_HEAD = do_GET  # noqa: N815 - the name is http.server's

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """What http.server refuses by itself, such as a method, is JSON too."""
        self.close_connection = True
        self._send(Response(body=to_json({"error": message or HTTPStatus(code).phrase})), HTTPStatus(code))

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name is http.server's
        LOG.debug(format, *args)

    def _send(self, response: Response, status: HTTPStatus) -> None:
        self.send_response(status)
        headers = {
            "Content-Type": response.media_type,
            "Content-Length": str(len(response.body)),
            "Cache-Control": response.cache_control,
            **SECURITY_HEADERS,
        }
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(response.body)


def _explain(error: Exception) -> tuple[str, HTTPStatus]:
    from clickhouse_connect.driver.exceptions import ClickHouseError

    if isinstance(error, ClickHouseError | OSError):
        return "the database does not answer; the log of the monitor says more", HTTPStatus.SERVICE_UNAVAILABLE
    return f"{type(error).__name__}; the log of the monitor says more", HTTPStatus.INTERNAL_SERVER_ERROR

"""The embedded engine over ClickHouse's HTTP protocol, read-only: for clickhouse-connect, curl, and Grafana's plugin.

    client thread --> Request --> check_asker --> Query --> QueryEngine (guard, limits, readonly = 1) --> Answer

It runs in the monitor's process, which alone may open the embedded folder. ``/ping`` and ``/`` say ``Ok.`` to anybody.
"""

import gzip
import json
import logging
import os
import secrets
import threading
import uuid
from collections.abc import Callable, Mapping
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler

from tristream.config.monitoring import MonitoringSection
from tristream.monitoring.http_queries.engine import MAX_TEXT_BYTES, Answer, QueryEngine
from tristream.monitoring.http_queries.go_hello import hello_block, is_hello
from tristream.monitoring.http_queries.guard import RefusedError
from tristream.monitoring.http_queries.requests import (
    AUTHENTICATION_FAILED,
    LOCAL_NAMES,
    Request,
    check_asker,
    read_query,
)
from tristream.monitoring.store.clickhouse import DEFAULT_DATABASE
from tristream.monitoring.store.reading import RUN_HEADER
from tristream.runtime.errors import UserError
from tristream.runtime.http_server import QuietHTTPServer, listen
from tristream.runtime.run_folder import RunFolder

LOG = logging.getLogger("tristream.monitor")

IDLE_SECONDS = 60.0
"""A silent connection is closed after this time."""
OWNER_ALONE = 0o600
MIN_GZIP_BYTES = 1024

STATUSES: Mapping[int, HTTPStatus] = {
    AUTHENTICATION_FAILED: HTTPStatus.FORBIDDEN,
    164: HTTPStatus.FORBIDDEN,
    36: HTTPStatus.BAD_REQUEST,
    48: HTTPStatus.NOT_IMPLEMENTED,
    62: HTTPStatus.BAD_REQUEST,
    73: HTTPStatus.NOT_FOUND,
    456: HTTPStatus.BAD_REQUEST,
    457: HTTPStatus.BAD_REQUEST,
    46: HTTPStatus.NOT_FOUND,
    47: HTTPStatus.NOT_FOUND,
    60: HTTPStatus.NOT_FOUND,
    81: HTTPStatus.NOT_FOUND,
    307: HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
}
"""HTTP status by ClickHouse's code of the error, as a server has them; 500 for all others."""
MEDIA_TYPES = {
    "JSON": "application/json",
    "CSV": "text/csv; charset=UTF-8",
    "TabSeparated": "text/tab-separated-values",
}
"""By the beginning of the format's name. Nothing is HTML, as answers of models are in what is asked for."""


class HttpQueries:
    """Queries that are being served."""

    def __init__(self, server: "_Server") -> None:
        self._server = server
        self.engine = server.engine
        self.port = int(server.server_address[1])
        self._thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.1}, name="queries")
        self._thread.start()

    def stop(self) -> None:
        """Serve no more, once the query in hand is answered."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
        self.engine.close()


def serve_queries(
    monitoring: MonitoringSection, folder: RunFolder, run: str, on_look: Callable[[], None] = lambda: None
) -> HttpQueries:
    """Serve the run's embedded database at ``monitoring.http_host`` and ``monitoring.query_port``.

    Its folder must be open in this process. Unless the host is this machine alone, a token in the run's folder is asked
    for; it outlasts the process. ``on_look`` is called, from any thread, with every query that is let in.

    Raises:
        UserError: the address is taken or cannot be used, or the token cannot be written.
    """
    try:
        token = "" if monitoring.http_host in LOCAL_NAMES else make_token(folder)
    except OSError as error:
        what = f"the token of the run cannot be written ({error.strerror})"
        raise UserError(what, where=str(folder.query_token), remedy="make the folder of the run writable") from None
    engine = QueryEngine(folder.clickhouse)
    return HttpQueries(
        listen(
            lambda address: _Server(address, engine, token, run, on_look),
            monitoring.http_host,
            monitoring.query_port,
            host_key="monitoring.http_host",
            port_key="monitoring.query_port",
        )
    )


def make_token(folder: RunFolder) -> str:
    """The token of a run, made and kept in its folder, readable by its owner alone, if there is none yet."""
    path = folder.query_token
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, OWNER_ALONE)
    except FileExistsError:
        kept = path.read_text(encoding="utf-8").strip()
        if kept:
            return kept
        path.unlink()  # it was being written when its process ended
        return make_token(folder)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        token = secrets.token_urlsafe(32)
        file.write(token)
    return token


class _Server(QuietHTTPServer):
    def __init__(
        self, address: tuple[str, int], engine: QueryEngine, token: str, run: str, on_look: Callable[[], None]
    ) -> None:
        self.engine = engine
        self.on_look = on_look
        self.token = token
        self.run = run
        super().__init__(address, _Handler)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = IDLE_SECONDS
    server: _Server

    def do_POST(self) -> None:
        try:
            request = Request(
                target=self.path,
                headers={name.lower(): value for name, value in self.headers.items()},
                body=self._read_body(),
            )
            self._respond(request)
        except RefusedError as refusal:
            self._send_refusal(refusal)
        except Exception as error:
            LOG.exception("a query failed")
            self._send_refusal(RefusedError(1001, "STD_EXCEPTION", type(error).__name__))

    do_GET = do_POST  # noqa: N815 - the name is http.server's
    do_HEAD = do_POST  # noqa: N815 - the name is http.server's

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name is http.server's
        LOG.debug(format, *args)

    def _respond(self, request: Request) -> None:
        if request.path in ("/ping", "/replicas_status") or (
            request.path == "/" and not request.body and "query" not in request.parameters
        ):
            self._send(HTTPStatus.OK, b"Ok.\n", {"Content-Type": "text/plain; charset=UTF-8"})
            return
        if request.path != "/":
            self._send(HTTPStatus.NOT_FOUND, b"There is no such path; queries go to /\n", {})
            return
        check_asker(request, self.server.token)
        self.server.on_look()
        query = read_query(request, DEFAULT_DATABASE)
        engine = self.server.engine
        if is_hello(query.text, request.target.partition("?")[2]):
            body = hello_block(self.server.run, engine.version, engine.timezone)
            answer = Answer(body=body, output_format="Native", num_rows=1, num_bytes=1, seconds=0.0)
        else:
            answer = engine.run(query)
        self._send_answer(request, answer)

    def _read_body(self) -> bytes:
        length = self.headers.get("Content-Length")
        if length is None and "chunked" in self.headers.get("Transfer-Encoding", ""):
            self.close_connection = True
            raise RefusedError(381, "HTTP_LENGTH_REQUIRED", "the request says no Content-Length")
        if not (length or "0").isdigit() or int(length or 0) > MAX_TEXT_BYTES:
            self.close_connection = True
            raise RefusedError(307, "TOO_MANY_BYTES", f"the query is longer than {MAX_TEXT_BYTES} bytes")
        return self.rfile.read(int(length or 0))

    def _send_answer(self, request: Request, answer: Answer) -> None:
        summary = {
            "read_rows": str(answer.num_rows),
            "read_bytes": str(answer.num_bytes),
            "result_bytes": str(len(answer.body)),
            "elapsed_ns": str(int(answer.seconds * 1e9)),
        }
        kinds = [kind for start, kind in MEDIA_TYPES.items() if answer.output_format.startswith(start)]
        headers = {
            "Content-Type": kinds[0] if kinds else "application/octet-stream",
            "X-ClickHouse-Summary": json.dumps(summary, separators=(",", ":")),
            "X-ClickHouse-Format": answer.output_format,
            "X-ClickHouse-Timezone": self.server.engine.timezone,
            "X-ClickHouse-Query-Id": request.parameters.get("query_id") or str(uuid.uuid4()),
        }
        body = answer.body
        if _wants_gzip(request) and len(body) >= MIN_GZIP_BYTES:
            body, headers["Content-Encoding"] = gzip.compress(body, compresslevel=1), "gzip"
        self._send(HTTPStatus.OK, body, headers)

    def _send_refusal(self, refusal: RefusedError) -> None:
        text = (
            f"Code: {refusal.code}. DB::Exception: {refusal}. ({refusal.name}) (version {self.server.engine.version})\n"
        )
        headers = {"Content-Type": "text/plain; charset=UTF-8", "X-ClickHouse-Exception-Code": str(refusal.code)}
        if refusal.code == AUTHENTICATION_FAILED:
            headers["WWW-Authenticate"] = 'Basic realm="tristream"'
        self._send(STATUSES.get(refusal.code, HTTPStatus.INTERNAL_SERVER_ERROR), text.encode(), headers)

    def _send(self, status: HTTPStatus, body: bytes, headers: Mapping[str, str]) -> None:
        self.send_response(status)
        always = {RUN_HEADER: self.server.run, "Content-Length": str(len(body)), "X-Content-Type-Options": "nosniff"}
        for name, value in {**headers, **always}.items():
            self.send_header(name, _one_line(value))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


def _wants_gzip(request: Request) -> bool:
    is_allowed = request.parameters.get("enable_http_compression", "0") == "1"
    return is_allowed and "gzip" in request.headers.get("accept-encoding", "")


def _one_line(value: str) -> str:
    """A value that cannot begin another header."""
    return "".join(character for character in value if " " <= character <= "~")

"""A reward server: one question a request, over HTTP.

    GET  /       {"message": "Reward Judge Server"}
    POST /judge  a line of the format            -> its answer

    client threads -> questions -> pool -> verdicts -> answers

It is meant for trusted networks: there is no authentication.
"""

import json
import logging
import threading
from collections.abc import Mapping
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from typing import Any

from tristream.runtime.http_server import QuietHTTPServer, listen
from tristream.verifiers.offline.lines_of_file import parse_object
from tristream.verifiers.offline.questions import LineError, LineFormat, Question
from tristream.verifiers.pool.pool import Pool
from tristream.verifiers.pool.tasks import PoolError, Verdict
from tristream.wire.events import Status

LOG = logging.getLogger("tristream.verifier")

IDENTITY: Mapping[str, str] = {"message": "Reward Judge Server"}
"""By this a trainer knows the server for what it is."""
MAX_BODY_BYTES = 64 * 2**20
IDLE_SECONDS = 30.0
"""A silent connection is closed after this time."""
LAST_ANSWERS_SECONDS = 30.0
"""How long requests in hand are waited for at the end."""


class JudgeServer:
    """A server that answers until it is stopped.

    Args:
        host: address to listen on.
        port: 0 for a free one.
        line_format: how requests ask.
        pool: judges; whoever started it ends it.

    Raises:
        UserError: the address is taken or cannot be used.
    """

    def __init__(self, host: str, port: int, line_format: LineFormat, pool: Pool) -> None:
        self._format = line_format
        self._pool = pool
        self._changed = threading.Condition()
        self._num_in_hand = 0
        self.num_answered = 0
        self.failure: PoolError | None = None
        """Why nothing can be judged any more."""
        self._server = listen(lambda address: _Server(address, self), host, port, host_key="--host", port_key="--port")
        self.port: int = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.1}, name="judge")
        self._thread.start()

    def judge(self, body: bytes) -> Mapping[str, Any]:
        """The answer to a request.

        Raises:
            LineError: it asks nothing.
            PoolError: nothing can be judged.
        """
        question = self._format.read(parse_object(body))
        verdict = question.known
        if verdict is None:
            verdict = self._ask(question)
        judgement = verdict.judgements[0] if verdict.status is Status.SCORED else None
        if verdict.status in (Status.ERROR, Status.TIMEOUT):
            LOG.warning("%s: %s: %s", question.verifier, verdict.status, verdict.detail)
        return self._format.write(question, verdict, judgement).fields

    def _ask(self, question: Question) -> Verdict:
        try:
            (judged,) = self._pool.submit([question.task])
            return judged.result()
        except PoolError as error:
            self.failure = error
            raise

    def begin(self) -> None:
        """A request is in hand."""
        with self._changed:
            self._num_in_hand += 1

    def end(self) -> None:
        """It is answered."""
        with self._changed:
            self._num_in_hand -= 1
            self.num_answered += 1
            self._changed.notify_all()

    def stop(self) -> None:
        """Take no more requests, and answer those in hand."""
        self._server.shutdown()
        self._thread.join()
        with self._changed:
            self._changed.wait_for(lambda: self._num_in_hand == 0, timeout=LAST_ANSWERS_SECONDS)
        self._server.server_close()


class _Server(QuietHTTPServer):
    request_queue_size = 512

    def __init__(self, address: tuple[str, int], judge: JudgeServer) -> None:
        self.judge = judge
        super().__init__(address, _Handler)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = IDLE_SECONDS
    disable_nagle_algorithm = True
    wbufsize = -1
    server: _Server

    def do_GET(self) -> None:
        if self.path.partition("?")[0] == "/":
            self._send(IDENTITY, HTTPStatus.OK)
        else:
            self._refuse("Not Found", HTTPStatus.NOT_FOUND)

    def do_POST(self) -> None:
        body = self._read_body()
        if body is None:
            return
        if self.path.partition("?")[0] != "/judge":
            self._refuse("Not Found", HTTPStatus.NOT_FOUND)
            return
        self.server.judge.begin()
        try:
            self._answer(body)
        finally:
            self.server.judge.end()

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """What http.server refuses by itself, such as a method, is JSON too."""
        self.close_connection = True
        self._refuse(message or HTTPStatus(code).phrase, HTTPStatus(code))

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name is http.server's
        LOG.debug(format, *args)

    def _answer(self, body: bytes) -> None:
        try:
            fields = self.server.judge.judge(body)
        except LineError as error:
            self._refuse(str(error), HTTPStatus.UNPROCESSABLE_ENTITY)
        except PoolError as error:
            LOG.error("nothing can be judged: %s", error)
            self._refuse(str(error), HTTPStatus.SERVICE_UNAVAILABLE)
        else:
            self._send(fields, HTTPStatus.OK)

    def _read_body(self) -> bytes | None:
        length = self.headers.get("Content-Length", "")
        if not length.isdigit():
            self.send_error(HTTPStatus.LENGTH_REQUIRED)
            return None
        if int(length) > MAX_BODY_BYTES:
            self.send_error(HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
            return None
        return self.rfile.read(int(length))

    def _refuse(self, detail: str, status: HTTPStatus) -> None:
        self._send({"detail": detail}, status)

    def _send(self, fields: Mapping[str, Any], status: HTTPStatus) -> None:
        body = json.dumps(fields).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
        self.wfile.flush()

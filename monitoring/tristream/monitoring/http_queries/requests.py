"""A request of ClickHouse's HTTP protocol as values: who asks, and what.

The query is in the address (``query=``), in the body, or begins in the one and goes on in the other. ``param_NAME``
gives a parameter; ``database``, ``default_format`` and the headers ``X-ClickHouse-*`` say the rest. What is no setting
of the allow list does not reach the engine, and a ``session_id`` holds nothing together, as nothing outlasts a query.
"""

import base64
import binascii
import hmac
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import parse_qsl, urlsplit

from tristream.monitoring.http_queries.engine import Query
from tristream.monitoring.http_queries.guard import RefusedError

DEFAULT_FORMAT = "TabSeparated"
"""Format where nothing names one, as on a server."""
PARAMETER_PREFIX = "param_"
AUTHENTICATION_FAILED = 516
NOT_IMPLEMENTED = 48
LOCAL_NAMES = frozenset({"127.0.0.1", "localhost", "::1"})
"""What this machine is called on itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A request as it came, the names of its headers in lower case."""

    target: str
    """Path and query string."""
    headers: Mapping[str, str]
    body: bytes = b""

    @property
    def path(self) -> str:
        """The path."""
        return urlsplit(self.target).path or "/"

    @property
    def parameters(self) -> dict[str, str]:
        """The parameters of the address; of one that comes twice the last."""
        return dict(parse_qsl(urlsplit(self.target).query, keep_blank_values=True))


def read_query(request: Request, default_database: str) -> Query:
    """What is asked.

    Raises:
        RefusedError: it is written in a way that is not understood here.
    """
    parameters = request.parameters
    _refuse_encodings(request, parameters)
    try:
        body = request.body.decode()
    except UnicodeDecodeError:
        raise RefusedError(36, "BAD_ARGUMENTS", "the query is no text in UTF-8") from None
    text = "\n".join(part for part in (parameters.pop("query", ""), body) if part.strip())
    headers = request.headers
    return Query(
        text=text,
        database=parameters.get("database") or headers.get("x-clickhouse-database") or default_database,
        output_format=(headers.get("x-clickhouse-format") or parameters.get("default_format") or DEFAULT_FORMAT),
        parameters={
            name.removeprefix(PARAMETER_PREFIX): value
            for name, value in parameters.items()
            if name.startswith(PARAMETER_PREFIX)
        },
        settings={name: value for name, value in parameters.items() if not name.startswith(PARAMETER_PREFIX)},
    )


def check_asker(request: Request, token: str) -> None:
    """Check that who asks has the token, by any of the ways of the protocol, whatever the name of the user.

    Without a token only this machine is served; there a page of a browser, whose host has another name, gets nothing.

    Raises:
        RefusedError: it is not so.
    """
    if not token:
        host = urlsplit(f"//{request.headers.get('host', '')}").hostname or ""
        if host not in LOCAL_NAMES:
            raise RefusedError(AUTHENTICATION_FAILED, "AUTHENTICATION_FAILED", f"this machine is not called {host!r}")
    elif not any(hmac.compare_digest(given.encode(), token.encode()) for given in _given_tokens(request)):
        why = "the password is not the token of the run, in the file query-token of its folder"
        raise RefusedError(AUTHENTICATION_FAILED, "AUTHENTICATION_FAILED", why)


def _given_tokens(request: Request) -> list[str]:
    kind, _, credentials = request.headers.get("authorization", "").partition(" ")
    given = [request.headers.get("x-clickhouse-key", ""), request.parameters.get("password", "")]
    if kind.lower() == "bearer":
        given.append(credentials.strip())
    elif kind.lower() == "basic":
        try:
            given.append(base64.b64decode(credentials, validate=True).decode().partition(":")[2])
        except (binascii.Error, UnicodeDecodeError):
            pass  # it is no password then
    return given


def _refuse_encodings(request: Request, parameters: Mapping[str, str]) -> None:
    """Refuse what would come out as nonsense."""
    kind = request.headers.get("content-type", "")
    encoding = request.headers.get("content-encoding", "identity")
    if kind.startswith("multipart/"):
        raise RefusedError(NOT_IMPLEMENTED, "NOT_IMPLEMENTED", "give the query as the body, not as a form")
    if encoding != "identity" or parameters.get("decompress", "0") not in ("", "0"):
        raise RefusedError(NOT_IMPLEMENTED, "NOT_IMPLEMENTED", "give the query without compression")
    if parameters.get("compress", "0") not in ("", "0"):
        what = "answers are compressed by gzip only (Accept-Encoding and enable_http_compression=1)"
        raise RefusedError(NOT_IMPLEMENTED, "NOT_IMPLEMENTED", what)

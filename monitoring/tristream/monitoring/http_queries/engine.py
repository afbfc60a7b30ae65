"""Running a reader's query on the embedded engine: a connection of its own, limits, and ``readonly = 1`` for sure.

Nothing outlasts a query, so that no query changes what the next one may do. Queries go one after another: the engine
shares its process with the sink, which never waits for one, as it has a connection of its own too.
"""

import os
import re
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tristream.monitoring.http_queries.guard import RefusedError, check_database, check_statement, find_format

MAX_SECONDS = 30
"""Longest that a query may take."""
MAX_MEMORY_BYTES = 10**9
MAX_RESULT_BYTES = 256 * 2**20
MAX_TEXT_BYTES = 2**18
CLOSE_SECONDS = 3.0
"""Longest that the query in hand is waited for at the end."""
WAIT_SECONDS = 20.0
"""Longest that a query waits for those before it."""

LIMITS: Mapping[str, int] = {
    "max_threads": 1,
    "max_memory_usage": MAX_MEMORY_BYTES,
    "max_result_bytes": MAX_RESULT_BYTES,
    "max_execution_time": MAX_SECONDS,
    "max_query_size": 2 * MAX_TEXT_BYTES,
    "max_bytes_before_external_group_by": 0,
    "max_bytes_before_external_sort": 0,
    "max_temporary_data_on_disk_size_for_query": 1,
    "allow_introspection_functions": 0,
    "log_queries": 0,
}
HARMLESS = frozenset({"date_time_output_format", "extremes", "final", "group_by_use_nulls", "join_use_nulls", "limit",
    "max_execution_time", "max_result_rows", "offset", "output_format_json_named_tuples_as_objects",
    "output_format_json_quote_64bit_integers", "output_format_json_quote_denormals",
    "output_format_json_quote_decimals", "output_format_native_write_json_as_string", "result_overflow_mode",
    "session_timezone"})  # fmt: skip
"""Settings of a client that are followed; all others are left out."""

_ERROR = re.compile(r"Code: (?P<code>[0-9]+)\.\s*(?:DB::Exception:\s*)?(?P<text>.*)", re.DOTALL)
_ERROR_NAME = re.compile(r"\(([A-Z][A-Z_0-9]+)\)\s*$")


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """What a reader asks."""

    text: str
    database: str
    """Whose tables need no name before them."""
    output_format: str
    """Format of the answer, unless the text names one."""
    parameters: Mapping[str, str] = field(default_factory=dict)
    """Values of ``{name:Type}``, as ClickHouse's HTTP protocol writes them."""
    settings: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What the engine says."""

    body: bytes
    output_format: str
    num_rows: int
    """Rows that were read."""
    num_bytes: int
    """Bytes that were read."""
    seconds: float


class QueryEngine:
    """The embedded engine of this process, for readers; any thread may ask."""

    def __init__(self, folder: Path) -> None:
        """Read what the engine has; its database must be open in this process."""
        self._path = os.path.realpath(folder)
        self.one_at_a_time = threading.Lock()
        connection = self._connect()
        try:
            self.timezone = _lines(connection, "SELECT timezone()")[0]
            self.version = _lines(connection, "SELECT version()")[0]
            self._table_functions = frozenset(_lines(connection, "SELECT lower(name) FROM system.table_functions"))
            self._formats = {
                name.lower(): name for name in _lines(connection, "SELECT name FROM system.formats WHERE is_output")
            }
        finally:
            connection.close()

    def run(self, query: Query) -> Answer:
        """Answer a query.

        Raises:
            RefusedError: it is refused, cannot be understood, takes too much, or others take too long.
        """
        if not self.one_at_a_time.acquire(timeout=WAIT_SECONDS):
            raise RefusedError(202, "TOO_MANY_SIMULTANEOUS_QUERIES", "other queries take too long; ask again")
        try:
            return self._run(query)
        except RuntimeError as error:
            raise _to_refusal(str(error)) from None
        finally:
            self.one_at_a_time.release()

    def close(self) -> None:
        """Answer no more queries; one that takes long is left to its thread."""
        self.one_at_a_time.acquire(timeout=CLOSE_SECONDS)

    def _run(self, query: Query) -> Answer:
        started = time.monotonic()
        connection = self._connect()
        try:
            for name, value in {**LIMITS, **_followed(query.settings)}.items():
                connection.query(f"SET {name} = {_quote(str(value))}")
            connection.query("SET readonly = 1")
            statement = self._normalize(connection, query.text)
            tokens = check_statement(statement, self._table_functions)
            output_format = self._known_format(find_format(tokens) or query.output_format)
            connection.query(f"USE {_quote_name(check_database(query.database))}")
            result = connection.query(statement, output_format, params=dict(query.parameters) or None)
            return Answer(
                body=bytes(result.bytes() or b"") if result else b"",
                output_format=output_format,
                num_rows=int(result.rows_read()) if result else 0,
                num_bytes=int(result.bytes_read()) if result else 0,
                seconds=time.monotonic() - started,
            )
        finally:
            connection.close()

    def _connect(self) -> Any:  # noqa: ANN401 - untyped library
        import chdb

        return chdb.connect(self._path)

    def _normalize(self, connection: Any, text: str) -> str:  # noqa: ANN401 - untyped library
        if len(text.encode()) > MAX_TEXT_BYTES:
            raise RefusedError(307, "TOO_MANY_BYTES", f"the query is longer than {MAX_TEXT_BYTES} bytes")
        result = connection.query(
            "SELECT formatQuerySingleLine({text:String})", "RawBLOB", params={"text": _escape(text)}
        )
        return bytes(result.bytes()).decode()

    def _known_format(self, name: str) -> str:
        if name.lower() not in self._formats:
            raise RefusedError(73, "UNKNOWN_FORMAT", f"there is no output format {name}")
        return self._formats[name.lower()]


def _followed(settings: Mapping[str, str]) -> dict[str, str]:
    """The harmless settings of a client; it may lower the limit of time and not raise it."""
    followed = {name: value for name, value in settings.items() if name in HARMLESS}
    asked = followed.get("max_execution_time")
    if asked is not None and not (asked.isdigit() and 0 < int(asked) < MAX_SECONDS):
        del followed["max_execution_time"]
    return followed


def _to_refusal(message: str) -> RefusedError:
    """The engine's error, whose code the clients of the protocol know."""
    match = _ERROR.search(message)
    if match is None:
        return RefusedError(1001, "STD_EXCEPTION", message.strip())
    text = re.sub(r"\s*\(version [^)]*\)", "", match["text"]).strip()
    name = _ERROR_NAME.search(text)
    return RefusedError(int(match["code"]), name[1] if name else "", _ERROR_NAME.sub("", text).strip())


def _lines(connection: Any, query: str) -> list[str]:  # noqa: ANN401 - untyped library
    return bytes(connection.query(query, "TSVRaw").bytes()).decode().splitlines()


def _escape(text: str) -> str:
    """A text as ClickHouse's HTTP protocol writes the value of a parameter."""
    return text.translate({92: "\\\\", 9: "\\t", 10: "\\n", 13: "\\r", 0: "\\0"})


def _quote(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def _quote_name(name: str) -> str:
    return "`" + name.replace("\\", "\\\\").replace("`", "\\`") + "`"

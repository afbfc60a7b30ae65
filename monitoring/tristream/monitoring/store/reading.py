"""Opening the database of a run to read it, wherever it is and whoever has it open.

monitoring.clickhouse_url is set --> that server
the run's monitor is at work -----> its read-only HTTP queries (it alone may open the embedded folder)
otherwise ------------------------> the embedded folder, in this process
"""

import json
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from tristream.config.monitoring import MonitoringSection
from tristream.monitoring.store.clickhouse import (
    ANSWER_SECONDS,
    CONNECT_SECONDS,
    DEFAULT_DATABASE,
    Role,
    describe_error,
    open_client,
)
from tristream.monitoring.store.client import Client
from tristream.runtime.errors import TryAgainError, UserError
from tristream.runtime.run_folder import RunFolder
from tristream.wire.events import Part, PartState

QUERY_PORT = "query_port"
"""Measure of the monitor: the port of its HTTP queries."""
RUN_HEADER = "X-ClickHouse-Server-Display-Name"
"""Header of every answer of the HTTP queries that carries the run's id; a server has its own name there."""
READER = "reader"
"""Whom the HTTP queries let in with the token; any name does."""
FRESH_SECONDS = 15.0
"""A monitor whose status is older is not at work."""
PATIENCE_SECONDS = 5.0
"""How long a server, or a process that is about to let go of the folder, is waited for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """Where a monitor answers queries."""

    host: str
    port: int
    token: str = field(repr=False)
    """Empty if it asks for none."""


@contextmanager
def open_reader(monitoring: MonitoringSection, folder: RunFolder) -> Iterator[Client]:
    """Open the database of a run for reading, and close it after the block.

    One embedded folder at a time may be open in a process, so blocks of several runs follow one another.

    Raises:
        UserError: the run has no database yet, its address is malformed, or nothing answers there.
        TryAgainError: the run's monitor is at work and does not answer.
    """
    with closing(_open(monitoring, folder)) as client:
        yield client


def find_endpoint(folder: RunFolder) -> Endpoint | None:
    """Where the monitor of a run answers queries; None if no monitor is at work, as far as its status file says."""
    try:
        status: dict[str, Any] = json.loads((folder.status / f"{Part.MONITOR}.json").read_text(encoding="utf-8"))
        port = int(status["measures"].get(QUERY_PORT, 0))
        host = urlsplit(status["address"]).hostname or ""
        is_over = status["state"] == PartState.DONE or time.time() - status["time"] > FRESH_SECONDS
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    if is_over or not port or not host:
        return None
    try:
        token = folder.query_token.read_text(encoding="utf-8").strip()
    except OSError:
        token = ""
    return Endpoint(host=host, port=port, token=token)


def _open(monitoring: MonitoringSection, folder: RunFolder) -> Client:
    if monitoring.clickhouse_url:
        return open_client(monitoring, folder, role=Role.READS, timeout_seconds=PATIENCE_SECONDS)
    endpoint = find_endpoint(folder)
    if endpoint is not None:
        if not _serves(endpoint, folder.path.name):  # it may be on another machine, and have the folder open there
            where = f"{endpoint.host}:{endpoint.port}"
            raise TryAgainError(f"{folder}: the run's monitor spoke a moment ago and does not answer at {where}")
        return _connect(endpoint)
    if not folder.clickhouse.is_dir():
        raise UserError(
            "there is no database of this run",
            where=str(folder),
            remedy="give the folder of a run that was started, or set monitoring.clickhouse_url",
        )
    return open_client(monitoring, folder, role=Role.READS, timeout_seconds=PATIENCE_SECONDS)


def _serves(endpoint: Endpoint, run: str) -> bool:
    """Whether the monitor of this run answers there, and not whoever took the port after it."""
    url = f"http://{endpoint.host}:{endpoint.port}/ping"
    try:
        with urllib.request.urlopen(url, timeout=CONNECT_SECONDS) as answer:
            return bool(answer.headers.get(RUN_HEADER) == run)
    except (urllib.error.URLError, OSError):
        return False


def _connect(endpoint: Endpoint) -> Client:
    import clickhouse_connect
    from clickhouse_connect.driver.exceptions import ClickHouseError

    try:
        client: Client = clickhouse_connect.get_client(
            host=endpoint.host,
            port=endpoint.port,
            username=READER,
            password=endpoint.token,
            database=DEFAULT_DATABASE,
            autogenerate_session_id=False,
            connect_timeout=CONNECT_SECONDS,
            send_receive_timeout=ANSWER_SECONDS,
        )
    except ClickHouseError as error:
        raise TryAgainError(f"the run's monitor does not answer ({describe_error(error)})") from None
    return client

"""Opening ClickHouse: a server, or the engine embedded in this process (chdb).

Exactly one process at a time may hold the embedded folder, so the monitor serves the page's queries
itself. A folder whose holder died opens again at once. Every client is used by one thread at a time.
Engines are limited to few threads, because they share the machine with training.
"""

import re
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from tristream.config.monitoring import MonitoringSection
from tristream.monitoring.store.client import Client
from tristream.monitoring.store.migrations import migrate
from tristream.monitoring.store.retention import keep_texts
from tristream.runtime.errors import StoppedError, UserError
from tristream.runtime.run_folder import RunFolder

DEFAULT_DATABASE = "tristream"

CONNECT_SECONDS = 5
ANSWER_SECONDS = 60
"""A server that says nothing for so long is away."""
FIRST_PAUSE_SECONDS = 0.5
LONGEST_PAUSE_SECONDS = 15.0
MAX_REASON = 300
"""Characters of what the database says went wrong."""

SETTINGS: dict[str, Any] = {"max_threads": 1, "max_insert_threads": 1, "max_query_size": 16_000_000}
"""Settings of every client: one CPU thread a query, and room for long lists of keys."""

LIMITS: dict[str, Any] = {"max_memory_usage": 2_000_000_000, "max_execution_time": 5}
"""Of a query that somebody looks at, in bytes and seconds: the embedded engine shares its process with the sink."""


class Role(StrEnum):
    """What a client is for."""

    WRITES = "writes"
    """Rows and their closing, which take the time that they take."""
    ANSWERS = "answers"
    """Questions of people, each within ``LIMITS``."""
    READS = "reads"
    """Questions in a process that does nothing else, without such limits."""


SETTINGS_OF: Mapping[Role, dict[str, Any]] = {
    Role.WRITES: SETTINGS,
    Role.ANSWERS: {**SETTINGS, **LIMITS},
    Role.READS: SETTINGS,
}

INSERT_SETTINGS: dict[str, Any] = {
    "async_insert": 0,
    "insert_deduplicate": 1,
    "deduplicate_blocks_in_dependent_materialized_views": 1,
}
"""Server defaults differ by version, so every insert states them: rows are durable when it returns."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How a database that does not answer is waited for."""

    timeout_seconds: float
    on_wait: Callable[[str], None]
    stop: threading.Event


def describe_address(monitoring: MonitoringSection, folder: RunFolder) -> str:
    """Where the database is, without a password, for people."""
    if not monitoring.clickhouse_url:
        return f"ClickHouse in {folder.clickhouse}"
    parts = urlsplit(monitoring.clickhouse_url)
    return f"ClickHouse at {parts.scheme}://{parts.hostname}:{parts.port or 8123}"


def open_client(
    monitoring: MonitoringSection,
    folder: RunFolder,
    *,
    role: Role = Role.WRITES,
    timeout_seconds: float = 30.0,
    on_wait: Callable[[str], None] = lambda _reason: None,
    stop: threading.Event | None = None,
) -> Client:
    """Open the database of a run, create it if needed, and bring its tables up to date.

    Args:
        monitoring: where the database is.
        folder: the run's, which holds the embedded database.
        role: what the client is for.
        timeout_seconds: how long to wait for a server, or for another process to let go of the folder.
        on_wait: called with what is waited for, before each new attempt.
        stop: ends the waiting.

    Raises:
        UserError: the address is malformed, nothing answers there before the timeout, or the tables there were
            made by another version of tristream.
        StoppedError: told to stop while waiting.
    """
    where = describe_address(monitoring, folder)
    if monitoring.clickhouse_url:
        connect = _server_connector(monitoring, SETTINGS_OF[role])
        remedy = "start the server, correct monitoring.clickhouse_url, or leave it empty for the embedded engine"
    else:
        connect = partial(open_embedded, folder.clickhouse, role=role)
        remedy = "stop the other process of this run, or set monitoring.clickhouse_url"

    def connect_and_migrate() -> Client:
        client = connect()
        try:
            migrate(client, where=where, cluster=monitoring.clickhouse_cluster)
            if role is Role.WRITES:
                keep_texts(client, monitoring.keep_texts_days, cluster=monitoring.clickhouse_cluster)
        except Exception:
            client.close()
            raise
        return client

    patience = Patience(timeout_seconds=timeout_seconds, on_wait=on_wait, stop=stop or threading.Event())
    return _retry(connect_and_migrate, patience, where=where, remedy=remedy)


def open_embedded(folder: Path, *, role: Role = Role.WRITES) -> Client:
    """Open the embedded engine, or raise what it raises; see ``open_client``."""
    import clickhouse_connect

    folder.mkdir(parents=True, exist_ok=True)
    client: Client = clickhouse_connect.get_client(interface="chdb", path=str(folder), settings=SETTINGS_OF[role])
    try:
        client.command(f"CREATE DATABASE IF NOT EXISTS {DEFAULT_DATABASE}")
        client.command(f"USE {DEFAULT_DATABASE}")
    except Exception:
        client.close()
        raise
    return client


def _server_connector(monitoring: MonitoringSection, settings: Mapping[str, Any]) -> Callable[[], Client]:
    """What connects to a server; raises UserError for an address that is none."""
    import clickhouse_connect

    parts = urlsplit(monitoring.clickhouse_url)
    database = parts.path.strip("/") or DEFAULT_DATABASE
    if parts.scheme not in ("http", "https") or not parts.hostname or not re.fullmatch(r"[A-Za-z_]\w*", database):
        raise UserError(
            f"'{parts.scheme}://{parts.hostname or ''}{parts.path}' is not an address of ClickHouse",
            where="monitoring.clickhouse_url",
            remedy="write it as http://user:password@host:8123/database",
        )

    def connect(database_name: str) -> Client:
        client: Client = clickhouse_connect.get_client(
            interface=parts.scheme,
            host=parts.hostname,
            port=parts.port or (8443 if parts.scheme == "https" else 8123),
            username=unquote(parts.username or "default"),
            password=unquote(parts.password or ""),
            database=database_name,
            autogenerate_session_id=False,
            connect_timeout=CONNECT_SECONDS,
            send_receive_timeout=ANSWER_SECONDS,
            settings=dict(settings),
        )
        return client

    def connect_and_create() -> Client:
        first = connect("default")
        try:
            cluster = monitoring.clickhouse_cluster
            first.command(f"CREATE DATABASE IF NOT EXISTS {database}{f' ON CLUSTER {cluster}' if cluster else ''}")
        finally:
            first.close()
        return connect(database)

    return connect_and_create


def _retry(connect: Callable[[], Client], patience: Patience, *, where: str, remedy: str) -> Client:
    deadline, pause_seconds = time.monotonic() + patience.timeout_seconds, FIRST_PAUSE_SECONDS
    while True:
        try:
            return connect()
        except UserError:
            raise
        except Exception as error:
            reason = describe_error(error)
        if time.monotonic() >= deadline:
            raise UserError(f"cannot be opened ({reason})", where=where, remedy=remedy)
        patience.on_wait(f"{where} ({reason})")
        if patience.stop.wait(pause_seconds):
            raise StoppedError
        pause_seconds = min(2 * pause_seconds, LONGEST_PAUSE_SECONDS)


def describe_error(error: Exception) -> str:
    """What went wrong, in one line of bounded length; the database quotes values in some."""
    lines = str(error).strip().splitlines()
    return (lines[0] if lines else type(error).__name__)[:MAX_REASON]

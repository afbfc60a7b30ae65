"""Opening ClickHouse: a server, or the engine embedded in this process (chdb).

Exactly one process at a time may hold the embedded folder, so the monitor serves the page's queries
itself. A folder whose holder died opens again at once. Every client is used by one thread at a time.
Engines are limited to few threads, because they share the machine with training.
"""

import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from tristream.config.monitoring import MonitoringSection
from tristream.monitoring.store.client import Client
from tristream.monitoring.store.migrations import migrate
from tristream.runtime.errors import UserError
from tristream.runtime.run_folder import RunFolder

DEFAULT_DATABASE = "tristream"

SETTINGS: dict[str, Any] = {"max_threads": 1, "max_insert_threads": 1}
"""Settings of every client: one CPU thread a query."""

INSERT_SETTINGS: dict[str, Any] = {
    "async_insert": 0,
    "insert_deduplicate": 1,
    "deduplicate_blocks_in_dependent_materialized_views": 1,
}
"""Server defaults differ by version, so every insert states them: rows are durable when it returns."""


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
    timeout_seconds: float = 30.0,
    on_wait: Callable[[str], None] = lambda _reason: None,
) -> Client:
    """Open the database of a run, create it if needed, and bring its tables up to date.

    Args:
        monitoring: where the database is.
        folder: the run's, which holds the embedded database.
        timeout_seconds: how long to wait for a server, or for another process to let go of the folder.
        on_wait: called with what is waited for, before each new attempt.

    Raises:
        UserError: the address is malformed, nothing answers there before the timeout, or the tables there were
            made by another version of tristream.
    """
    where = describe_address(monitoring, folder)
    if monitoring.clickhouse_url:
        client = _open_server(monitoring.clickhouse_url, where, timeout_seconds, on_wait)
    else:
        client = open_embedded(folder.clickhouse, timeout_seconds=timeout_seconds, on_wait=on_wait)
    try:
        migrate(client, where=where)
    except UserError:
        client.close()
        raise
    return client


def open_embedded(
    folder: Path, *, timeout_seconds: float = 30.0, on_wait: Callable[[str], None] = lambda _reason: None
) -> Client:
    """Open the embedded engine; see ``open_client``."""
    import clickhouse_connect

    folder.mkdir(parents=True, exist_ok=True)

    def connect() -> Client:
        client: Client = clickhouse_connect.get_client(interface="chdb", path=str(folder), settings=SETTINGS)
        try:
            client.command(f"CREATE DATABASE IF NOT EXISTS {DEFAULT_DATABASE}")
            client.command(f"USE {DEFAULT_DATABASE}")
        except Exception:
            client.close()
            raise
        return client

    return _retry(
        connect,
        timeout_seconds=timeout_seconds,
        on_wait=lambda: on_wait(f"the process that has {folder} open"),
        where=str(folder),
        remedy="stop the other process of this run, or set monitoring.clickhouse_url",
    )


def _open_server(url: str, where: str, timeout_seconds: float, on_wait: Callable[[str], None]) -> Client:
    import clickhouse_connect

    parts = urlsplit(url)
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
            settings=SETTINGS,
        )
        return client

    def connect_and_create() -> Client:
        first = connect("default")
        first.command(f"CREATE DATABASE IF NOT EXISTS {database}")
        first.close()
        return connect(database)

    return _retry(
        connect_and_create,
        timeout_seconds=timeout_seconds,
        on_wait=lambda: on_wait(where),
        where=where,
        remedy="start the server, correct monitoring.clickhouse_url, or leave it empty for the embedded engine",
    )


def _retry(
    connect: Callable[[], Client],
    *,
    timeout_seconds: float,
    on_wait: Callable[[], None],
    where: str,
    remedy: str,
) -> Client:
    from clickhouse_connect.driver.exceptions import ClickHouseError

    deadline = time.monotonic() + timeout_seconds
    while True:
        try:
            return connect()
        except (ClickHouseError, OSError) as error:
            if time.monotonic() >= deadline:
                reason = str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
                raise UserError(f"cannot be opened ({reason})", where=where, remedy=remedy) from None
            on_wait()
            time.sleep(0.5)

"""Opening the database of a run from outside: through its monitor, on its own, or not at all, in one line."""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tristream.config.monitoring import MonitoringSection
from tristream.monitoring.http_queries.server import HttpQueries, serve_queries
from tristream.monitoring.store.reading import QUERY_PORT, find_endpoint, open_reader
from tristream.runtime.errors import TryAgainError, UserError
from tristream.runtime.run_folder import RunFolder

MONITORING = MonitoringSection()


@pytest.fixture
def folder(client: Any, tmp_path: Path) -> RunFolder:
    made = RunFolder(tmp_path / "example")
    made.status.mkdir(parents=True)
    made.clickhouse.symlink_to(client.path)
    return made


@pytest.fixture
def queries(folder: RunFolder) -> Iterator[HttpQueries]:
    served = serve_queries(MONITORING, folder, "example")
    yield served
    served.stop()


def write_status(folder: RunFolder, port: int, *, state: str = "ready", age_seconds: float = 0.0) -> None:
    status = {
        "state": state,
        "time": time.time() - age_seconds,
        "address": "http://127.0.0.1:1/",
        "measures": {QUERY_PORT: float(port)},
    }
    (folder.status / "monitor.json").write_text(json.dumps(status))


@pytest.mark.usefixtures("example")
def test_a_run_at_work_is_read_through_its_monitor(folder: RunFolder, queries: HttpQueries) -> None:
    write_status(folder, queries.port)
    with open_reader(MONITORING, folder) as reader:
        assert "http" in type(reader).__name__.lower()
        rows = reader.query("SELECT max(step) FROM steps WHERE run = {run:String}", {"run": "example"}).result_rows
    assert rows == [(6,)]


def test_the_token_of_the_folder_is_used(folder: RunFolder) -> None:
    queries = serve_queries(MonitoringSection(http_host="0.0.0.0"), folder, "example")
    try:
        write_status(folder, queries.port)
        with open_reader(MONITORING, folder) as reader:
            assert reader.query("SELECT 1").result_rows == [(1,)]
    finally:
        queries.stop()


@pytest.mark.parametrize("status", [{"state": "done"}, {"age_seconds": 60.0}])
def test_a_monitor_that_is_done_or_silent_is_not_asked(
    folder: RunFolder, queries: HttpQueries, status: dict[str, Any]
) -> None:
    write_status(folder, queries.port, **status)
    assert find_endpoint(folder) is None


def test_another_run_that_took_the_port_is_not_read_and_a_folder_that_may_be_open_is_not_opened(
    folder: RunFolder,
) -> None:
    queries = serve_queries(MONITORING, folder, "other")
    try:
        write_status(folder, queries.port)
        with pytest.raises(TryAgainError, match=r"does not answer at 127\.0\.0\.1"), open_reader(MONITORING, folder):
            pass
    finally:
        queries.stop()


def test_without_a_monitor_the_folder_is_opened_here(folder: RunFolder) -> None:
    with open_reader(MONITORING, folder) as reader:
        assert reader.query("SELECT count() > 0 FROM schema_migrations").result_rows[0][0]


def test_a_run_without_a_database_is_an_error_in_one_line(tmp_path: Path) -> None:
    with (
        pytest.raises(UserError, match="there is no database of this run"),
        open_reader(MONITORING, RunFolder(tmp_path / "nothing")),
    ):
        pass

"""ClickHouse is away or refuses: the sink waits and says so, loses nothing, and drops no good row."""

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from tristream.config.monitoring import MonitoringSection
from tristream.monitoring.store.clickhouse import open_client
from tristream.monitoring.store.client import Client, QueryResult
from tristream.monitoring.store.sink import Sink
from tristream.runtime.bus.memory import MemoryBus
from tristream.runtime.errors import StoppedError, TryAgainError, UserError
from tristream.runtime.run_folder import RunFolder
from tristream.wire import topics

Select = Callable[[str], list[Mapping[str, Any]]]
COUNT = "SELECT count() AS n FROM rewards FINAL WHERE run = {run:String}"


class FlakyClient:
    """The client of the test session, whose inserts fail as a test says."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self.error: Callable[[str, Sequence[Sequence[Any]]], Exception | None] = lambda _table, _rows: None
        self.tables: list[str] = []

    def insert(
        self, table: str, data: Sequence[Sequence[Any]], column_names: Sequence[str], settings: dict[str, Any]
    ) -> object:
        self.tables.append(table)
        error = self.error(table, data)
        if error is not None:
            raise error
        return self._client.insert(table, data, column_names=column_names, settings=settings)

    def query(self, query: str, parameters: dict[str, Any] | None = None) -> QueryResult:
        return self._client.query(query, parameters)

    def command(self, cmd: str, parameters: dict[str, Any] | None = None) -> object:
        return self._client.command(cmd, parameters)

    def close(self) -> None:
        """The session closes its client."""


@pytest.fixture
def flaky(client: Client) -> FlakyClient:
    return FlakyClient(client)


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tristream.monitoring.store.writer.FIRST_PAUSE_SECONDS", 0.01)
    monkeypatch.setattr("tristream.monitoring.store.writer.LONGEST_PAUSE_SECONDS", 0.02)
    monkeypatch.setattr("tristream.monitoring.store.writer.STOP_SECONDS", 0.2)


def publish_rewards(bus: MemoryBus, recipe: Any, number: int = 0) -> None:
    for index in range(4):
        bus.publish(topics.REWARDS, recipe.reward(recipe.group(number), index, 1.0, detail=f"rollout {index}"))


@pytest.mark.parametrize("error", [ConnectionResetError("reset"), RuntimeError("Code: 243. Not enough space")])
def test_a_database_that_takes_nothing_is_waited_for_and_named_and_then_has_everything(
    bus: MemoryBus, flaky: FlakyClient, recipe: Any, select: Select, error: Exception
) -> None:
    told: list[str] = []

    def fail_twenty_times(_table: str, _rows: Sequence[Sequence[Any]]) -> Exception | None:
        if len(flaky.tables) == 10:
            publish_rewards(bus, recipe, number=1)
        return error if len(flaky.tables) <= 20 else None

    flaky.error = fail_twenty_times
    publish_rewards(bus, recipe)
    sink = Sink(bus, flaky, flush_seconds=0.0, report=told.append)
    sink.step()
    assert f"ClickHouse to take rows ({error})" in told
    assert select(COUNT) == [{"n": 4}]
    sink.step()
    assert select(COUNT) == [{"n": 8}]
    assert sink.num_events == 8
    assert list(bus.reader([topics.DEAD_LETTERS]).read_to_end()) == []


def test_told_to_stop_while_the_database_is_away_it_ends_soon_and_the_next_one_writes_what_is_missing(
    bus: MemoryBus, flaky: FlakyClient, recipe: Any, select: Select, write: Callable[[], Sink]
) -> None:
    flaky.error = lambda _table, _rows: ConnectionRefusedError("refused")
    stop = threading.Event()
    sink = Sink(bus, flaky, flush_seconds=0.0, stop=stop)
    publish_rewards(bus, recipe)
    threading.Timer(0.3, stop.set).start()
    started = time.monotonic()
    with pytest.raises(TryAgainError, match=r"ClickHouse takes no rows \(refused\)"):
        sink.run()
    assert time.monotonic() - started < 5.0
    assert select(COUNT) == [{"n": 0}]
    assert write().num_events == 4
    assert select(COUNT) == [{"n": 4}]


def test_a_row_that_the_database_alone_refuses_becomes_a_dead_letter_and_the_others_are_written(
    bus: MemoryBus, flaky: FlakyClient, recipe: Any, select: Select
) -> None:
    def refuse_third(_table: str, rows: Sequence[Sequence[Any]]) -> Exception | None:
        return RuntimeError("Code: 131. Too large string") if any("rollout 2" in row for row in rows) else None

    flaky.error = refuse_third
    publish_rewards(bus, recipe)
    Sink(bus, flaky, flush_seconds=0.0).step()
    assert select(COUNT) == [{"n": 3}]
    letters = [record.event for record in bus.reader([topics.DEAD_LETTERS]).read_to_end()]
    assert [letter.error for letter in letters] == ["does not fit its table: Code: 131. Too large string"]
    assert topics.REWARDS.codec.decode(letters[0].value).index == 2


def test_an_insert_that_failed_once_is_made_again_as_a_whole(
    bus: MemoryBus, flaky: FlakyClient, recipe: Any, select: Select
) -> None:
    flaky.error = lambda _table, _rows: TimeoutError("once") if flaky.tables[1:] == ["rewards"] else None
    publish_rewards(bus, recipe)
    Sink(bus, flaky, flush_seconds=0.0).step()
    assert select(COUNT) == [{"n": 4}]
    assert flaky.tables == ["logs", "rewards", "probes", "rewards"]


def test_a_database_that_is_away_at_the_start_is_waited_for_and_named(tmp_path: Path) -> None:
    monitoring = MonitoringSection(clickhouse_url="http://somebody:secret@127.0.0.1:1/x")
    told: list[str] = []
    stop = threading.Event()

    def note(reason: str) -> None:
        told.append(reason)
        if len(told) == 2:
            stop.set()

    with pytest.raises(StoppedError):
        open_client(monitoring, RunFolder(tmp_path), timeout_seconds=float("inf"), on_wait=note, stop=stop)
    assert len(told) == 2
    assert all(reason.startswith("ClickHouse at http://127.0.0.1:1 (") for reason in told)
    assert not any("secret" in reason for reason in told)


def test_an_address_that_is_none_is_refused_at_once_without_its_password(tmp_path: Path) -> None:
    monitoring = MonitoringSection(clickhouse_url="ftp://somebody:secret@host/x")
    with pytest.raises(UserError, match="is not an address of ClickHouse") as refusal:
        open_client(monitoring, RunFolder(tmp_path), timeout_seconds=float("inf"))
    assert "secret" not in str(refusal.value)

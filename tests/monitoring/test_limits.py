"""No question takes the sink down: each is limited in memory and time, and events go on being written."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from clickhouse_connect.driver.exceptions import DatabaseError

from tristream.config.run_file import RunFile
from tristream.monitoring.store.clickhouse import LIMITS, Role, open_embedded
from tristream.monitoring.store.client import Client
from tristream.monitoring.store.sink import Sink
from tristream.runtime.bus.memory import MemoryBus

MONSTERS = {
    "memory": "SELECT length(groupArray(cityHash64(number))) FROM numbers(1000000000)",
    "time": "SELECT count() FROM numbers(1000000000000) WHERE sipHash64(number) = 1",
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", MONSTERS)
def test_a_monstrous_question_is_refused_and_the_sink_goes_on(
    kind: str,
    bus: MemoryBus,
    client: Client,
    settings: RunFile,
    make_run: Callable[[MemoryBus, int], None],
    write: Callable[[], Sink],
    database_folder: Path,
) -> None:
    page = open_embedded(database_folder, role=Role.ANSWERS)
    started = time.monotonic()
    with pytest.raises(DatabaseError, match=r"MEMORY_LIMIT_EXCEEDED|TIMEOUT_EXCEEDED"):
        page.query(MONSTERS[kind])
    assert time.monotonic() - started < 4 * float(LIMITS["max_execution_time"])
    make_run(bus, 1)
    assert write().num_events > 10
    rows: Any = client.query(f"SELECT count() FROM rollouts FINAL WHERE run = '{settings.run.id}'").result_rows
    assert rows[0][0] > 10
    page.close()

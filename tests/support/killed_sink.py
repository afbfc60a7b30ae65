"""A sink as a process of its own on a log that lies in a file, so that it can be killed or frozen for real.

    python killed_sink.py FOLDER serve    serves the database to other processes till it is killed, and says ``serving``
    python killed_sink.py FOLDER write    writes what is left of the log, and says ``reading`` when it begins, ``wrote``
                                          after each batch; into the database that is served, if one is
    python killed_sink.py FOLDER check    prints what closed tables say otherwise than raw rows, and how many these are

Commits are in a file too, which is replaced as a whole: as a broker keeps them, a commit is there or it is not.
"""

import json
import pickle
import sys
from collections.abc import Mapping
from multiprocessing.managers import BaseManager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from closed_tables import read_differences
from tristream.monitoring.store import sink as sink_module
from tristream.monitoring.store.clickhouse import open_embedded
from tristream.monitoring.store.client import Client
from tristream.monitoring.store.migrations import migrate
from tristream.monitoring.store.sink import Sink
from tristream.monitoring.store.tables import TABLES
from tristream.runtime.bus.memory import MemoryBus

POLL_RECORDS = 400
"""Small, so that there are many batches to be killed in."""


def save_log(bus: MemoryBus, folder: Path) -> None:
    """Keep what is on a bus."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "log").write_bytes(pickle.dumps((bus.run, bus.log_id(), bus._logs)))


def load_log(folder: Path) -> MemoryBus:
    """The bus that was kept, with the newest commits."""
    run, log_id, logs = pickle.loads((folder / "log").read_bytes())
    bus = MemoryBus(run)
    bus._log_id, bus._logs = log_id, logs
    if (folder / "commits").exists():
        bus._commits = pickle.loads((folder / "commits").read_bytes())
    return bus


class Served:
    """A client whose answers go to other processes."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def query(self, query: str, parameters: dict[str, Any] | None = None) -> SimpleNamespace:
        found = self._client.query(query, parameters)
        return SimpleNamespace(result_rows=list(found.result_rows), column_names=list(found.column_names))

    def command(self, cmd: str, parameters: dict[str, Any] | None = None) -> None:
        self._client.command(cmd, parameters)

    def insert(self, *what: Any, **options: Any) -> None:
        self._client.insert(*what, **options)

    def close(self) -> None:
        """The process that serves it closes it."""


class Manager(BaseManager):
    """Lets processes share one client."""


def serve(folder: Path) -> None:
    """Serve the database at a socket in the folder."""
    client = open_embedded(folder / "clickhouse")
    migrate(client)
    served = Served(client)
    Manager.register("client", callable=lambda: served)
    server = Manager(str(folder / "socket"), b"key").get_server()
    print("serving", flush=True)
    server.serve_forever()


def open_database(folder: Path) -> Client:
    """The database that is served, or the folder itself."""
    if not (folder / "socket").exists():
        client = open_embedded(folder / "clickhouse")
        migrate(client)
        return client
    Manager.register("client")
    manager = Manager(str(folder / "socket"), b"key")
    manager.connect()
    shared: Client = manager.client()  # type: ignore[attr-defined]
    return shared


def write(folder: Path) -> None:
    """Write all that is left, committing into the folder."""
    bus = load_log(folder)
    client = open_database(folder)
    sink_module.POLL_RECORDS = POLL_RECORDS
    sink = Sink(bus, client, flush_seconds=0.0)
    commit = sink._reader.commit

    def commit_durably(positions: Mapping[tuple[str, int], int] | None = None) -> None:
        commit(positions)
        temporary = folder / "commits.new"
        temporary.write_bytes(pickle.dumps(bus._commits))
        temporary.replace(folder / "commits")

    sink._reader.commit = commit_durably  # type: ignore[method-assign]
    print("reading", flush=True)
    while sink.step():
        print("wrote", flush=True)
    sink.drain()
    sink.close()
    client.close()


def check(folder: Path) -> dict[str, Any]:
    """Differences of closed figures, and rows by table."""
    client = open_database(folder)
    run = load_log(folder).run
    counts = {
        topic: client.query(f"SELECT count() FROM {table.name} FINAL WHERE run = '{run}'").result_rows[0][0]
        for topic, table in TABLES.items()
    }
    found = {"differences": read_differences(client, run), "counts": counts}
    client.close()
    return found


if __name__ == "__main__":
    place = Path(sys.argv[1])
    if sys.argv[2] == "write":
        write(place)
    elif sys.argv[2] == "serve":
        serve(place)
    else:
        print(json.dumps(check(place)))

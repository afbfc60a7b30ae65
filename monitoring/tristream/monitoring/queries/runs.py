"""Runs that one database holds, for those who compare two of them."""

from typing import Any

from tristream.monitoring.queries.overview import read_evaluation
from tristream.monitoring.queries.select import Rows, select
from tristream.monitoring.store.client import Client

MAX_RUNS = 500

_RUNS = """
    SELECT run, toUnixTimestamp64Milli(max(created)) AS created_ms, count() AS num_sources FROM sources FINAL
    GROUP BY run ORDER BY created_ms DESC LIMIT {limit:UInt32}
"""
_SOURCES = "SELECT source, metric FROM sources FINAL WHERE run = {run:String} ORDER BY position"


def read_runs(client: Client) -> Rows:
    """Runs, those whose monitor started last first: ``run``, ``created_ms``, ``num_sources``."""
    return select(client, _RUNS, limit=MAX_RUNS)


def is_known(client: Client, run: str) -> bool:
    """Whether the database has a run of this name."""
    return bool(select(client, _SOURCES, run=run))


def read_held_out(client: Client, run: str) -> dict[str, Any]:
    """The sources of a run and their held-out rounds, as the page shows them beside its own."""
    sources = [{"name": row["source"], "metric": row["metric"]} for row in select(client, _SOURCES, run=run)]
    return {"run": run, "sources": sources, "evaluation": read_evaluation(client, run)}

"""The processes of a run: what each does, wherever it runs, from the statuses that they publish."""

from typing import Any

from tristream.monitoring.queries.select import Rows, select
from tristream.monitoring.store.client import Client
from tristream.wire.events import Part

NOT_STARTED = "not started"
"""State of a part of which no process has said a word."""

_PARTS = """
    SELECT
        part, instance, state, waiting_for, address, measures,
        greatest(0, dateDiff('millisecond', since, now64(3)) / 1000) AS since_seconds,
        greatest(0, dateDiff('millisecond', started, created) / 1000) AS alive_seconds,
        greatest(0, dateDiff('millisecond', created, now64(3)) / 1000) AS told_seconds
    FROM part_states WHERE run = {run:String} ORDER BY started, instance
"""


def read_parts(client: Client, run: str) -> Rows:
    """Every process that matters, in the order of the stream, as JSON values.

    A state is ``starting``, ``ready``, ``done``, ``silent`` (it has told nothing for a minute), or ``not started``
    for a part without any process. A process that is done or silent goes when its successor has started.
    ``since_seconds`` ago it came into its state and its wait, ``told_seconds`` ago it told so, and had then
    been there for ``alive_seconds``. ``host`` is the machine, ``num_cores`` what it used on average; None if not known.
    """
    rows = select(client, _PARTS, run=run)
    parts: Rows = []
    for part in Part:
        parts += [row for row in rows if row["part"] == part] or [_absent(part)]
    return [_with_host(row) for row in parts]


def _with_host(row: dict[str, Any]) -> dict[str, Any]:
    """``host`` of a process that is called ``host-4711``, and ``num_cores`` that it used on average."""
    host, _, number = row["instance"].rpartition("-")
    cpu_seconds, alive_seconds = row["measures"].get("cpu_seconds"), row.get("alive_seconds") or 0.0
    num_cores = cpu_seconds / alive_seconds if cpu_seconds is not None and alive_seconds >= 1 else None
    return row | {"host": host if number.isdigit() else row["instance"], "num_cores": num_cores}


def _absent(part: Part) -> dict[str, Any]:
    return {"part": str(part), "instance": "", "state": NOT_STARTED, "waiting_for": "", "address": "", "measures": {}}

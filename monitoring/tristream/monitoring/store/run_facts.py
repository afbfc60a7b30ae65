"""Facts that no event of a run tells: what the run file says of its sources, and which logs a monitor has read."""

import time
from collections.abc import Sequence

from tristream.config.sources import SourceSection
from tristream.monitoring.store.clickhouse import INSERT_SETTINGS
from tristream.monitoring.store.writer import Writer

_SOURCES = "SELECT source, position, metric, correct_at, weight FROM sources FINAL WHERE run = {run:String}"
_LOGS = "SELECT log_id, position FROM logs FINAL WHERE run = {run:String}"


def write_sources(writer: Writer, run: str, sources: Sequence[SourceSection]) -> None:
    """Keep what the run file says of each source, for the views; a row that says the same already stays."""
    known = set(map(tuple, writer.insist(lambda client: client.query(_SOURCES, {"run": run})).result_rows))
    now_ns = time.time_ns()
    rows = [
        (source.name, position, source.metric, source.correct_at, source.weight)
        for position, source in enumerate(sources)
    ]
    columns = ("run", "source", "position", "metric", "correct_at", "weight", "created", "rank")
    writer.write("sources", columns, [(run, *row, now_ns, now_ns) for row in rows if row not in known])


def read_log_position(writer: Writer, run: str, log_id: str) -> int:
    """Which log of the run this is: 1 for the first that a monitor read, 2 for the next; a new one is noted.

    Logs without an identity are taken for one.
    """
    rows = writer.insist(lambda client: client.query(_LOGS, {"run": run})).result_rows
    known = {str(identity): int(position) for identity, position in rows}
    if log_id not in known:
        known[log_id] = max(known.values(), default=0) + 1
        row = (run, log_id, known[log_id], time.time_ns())
        columns = ("run", "log_id", "position", "created")
        writer.insist(lambda client: client.insert("logs", [row], column_names=columns, settings=INSERT_SETTINGS))
    return known[log_id]

"""A run at a glance: what the terminal shows of it."""

from typing import Any

from tristream.monitoring.queries.overview import read_evaluation
from tristream.monitoring.queries.parts import read_parts
from tristream.monitoring.queries.select import Rows, select, select_one
from tristream.monitoring.store.client import Client

NUM_STEPS = 40
"""Newest steps whose rewards are shown."""
PACE_STEPS = 20
"""Newest steps by which the pace is judged."""

_STEP = """
    SELECT count() AS num_steps, max(number) AS step, argMax(total, number) AS total_steps,
        toUnixTimestamp64Milli(max(created)) AS last_ms
    FROM (SELECT step AS number, total_steps AS total, created FROM steps FINAL WHERE run = {run:String})
"""
_PACE = """
    SELECT if(count() > 1, dateDiff('millisecond', min(created), max(created)) / 1000 / (count() - 1), 0) AS seconds
    FROM (SELECT created FROM steps FINAL WHERE run = {run:String} ORDER BY step DESC LIMIT {limit:UInt32})
"""
_SOURCES = "SELECT source, metric FROM sources FINAL WHERE run = {run:String} ORDER BY position"
_REWARDS = """
    SELECT source, groupArray(judged_reward) AS rewards FROM (
        SELECT source, step, judged_reward FROM source_groups
        WHERE run = {run:String} AND step > {after:Int64} ORDER BY step
    ) GROUP BY source
"""
_STARTED = """
    SELECT toUnixTimestamp64Milli(min(started)) AS started_ms, toUnixTimestamp64Milli(max(created)) AS told_ms
    FROM part_states WHERE run = {run:String}
"""
_RUNS = "SELECT DISTINCT run FROM sources ORDER BY run"


def read_run_names(client: Client) -> list[str]:
    """All runs of a database."""
    return [row["run"] for row in select(client, _RUNS)]


def read_snapshot(client: Client, run: str) -> dict[str, Any]:
    """Where a run stands, as JSON values.

    ``step`` and ``total_steps``, ``step_seconds`` (mean of the newest steps), ``last_ms`` when the newest step was
    done; ``started_ms`` and ``told_ms``, when the oldest process that matters started and one spoke last; ``sources``
    with ``name``, ``metric``, held-out ``before`` and ``now`` (None without a complete round) and ``rewards``, the mean
    of all judged rollouts by step; ``parts`` as ``read_parts``.
    """
    step = select_one(client, _STEP, run=run)
    parts = read_parts(client, run)
    said = [int(part["measures"].get("total_steps", 0)) for part in parts]
    return {
        "run": run,
        **step,
        "total_steps": max(step["total_steps"], *said),
        "step_seconds": select_one(client, _PACE, run=run, limit=PACE_STEPS)["seconds"],
        **select_one(client, _STARTED, run=run),
        "sources": _read_sources(client, run, after=step["step"] - NUM_STEPS),
        "parts": parts,
    }


def held_out_mean(sources: Rows, key: str) -> float | None:
    """Mean over the sources of the held-out value ``before`` or ``now``; None unless each of them has one."""
    values = [source[key]["value"] if source[key] else None for source in sources]
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known and len(known) == len(values) else None


def _read_sources(client: Client, run: str, *, after: int) -> Rows:
    evaluation = read_evaluation(client, run)
    rewards = {row["source"]: row["rewards"] for row in select(client, _REWARDS, run=run, after=after)}
    return [
        {
            "name": row["source"],
            "metric": row["metric"],
            "before": evaluation.get(row["source"], {}).get("before"),
            "now": evaluation.get(row["source"], {}).get("now"),
            "rewards": rewards.get(row["source"], []),
        }
        for row in select(client, _SOURCES, run=run)
    ]

"""Where a run stands: the head of the live page and of the report."""

from typing import Any

from tristream.config.parts import MonitorSettings
from tristream.monitoring.queries.select import Rows, select, select_one
from tristream.monitoring.store.client import Client

_STEP = """
    SELECT
        count() AS num_steps,
        argMax(step, created) AS step,
        argMax(total_steps, created) AS total_steps,
        argMax(metrics, created) AS metrics,
        argMax(phase_seconds, created) AS phase_seconds,
        argMax(max_age, created) AS max_age,
        sum(num_completion_tokens) AS num_trained_tokens,
        toUnixTimestamp64Milli(max(created)) AS last_ms
    FROM (SELECT * FROM steps FINAL) WHERE run = {run:String}
"""
_STEP_SECONDS = """
    SELECT quantileExact(0.5)(seconds) AS seconds FROM (
        SELECT (toUnixTimestamp64Milli(created)
            - lagInFrame(toUnixTimestamp64Milli(created)) OVER (ORDER BY created)) / 1000 AS seconds,
            row_number() OVER (ORDER BY created) AS position
        FROM steps FINAL WHERE run = {run:String} ORDER BY created DESC LIMIT 20
    ) WHERE position > 1
"""
_POLICY = """
    SELECT argMax(version, created) AS version, count() AS num_versions
    FROM (SELECT * FROM policy FINAL) WHERE run = {run:String}
"""
_WORK = """
    SELECT
        countIf(split = 'train') AS num_rollouts,
        count() AS num_all_rollouts,
        sum(num_completion_tokens) AS num_tokens,
        sumIf(num_completion_tokens, created > now64() - INTERVAL 60 SECOND) / 60 AS tokens_per_second,
        countIf(created > now64() - INTERVAL 60 SECOND) / 60 AS rollouts_per_second,
        toUnixTimestamp64Milli(min(created)) AS first_ms,
        toUnixTimestamp64Milli(max(created)) AS last_ms,
        num_tokens / greatest(1, (last_ms - first_ms) / 1000) AS mean_tokens_per_second
    FROM (SELECT split, num_completion_tokens, created FROM rollouts FINAL WHERE run = {run:String})
"""
_DISPATCHED = "SELECT uniqExact(number) AS n FROM prompts WHERE run = {run:String} AND split = 'train'"
_USED = "SELECT uniqExact(arrayJoin(numbers)) AS n FROM steps FINAL WHERE run = {run:String}"
_SETTLED = """
    SELECT fate, reason, uniqExact(number) AS n FROM group_outcomes
    WHERE run = {run:String} GROUP BY fate, reason ORDER BY n DESC, reason
"""
_EVALUATION = """
    SELECT source, eval_step, eval_attempt, metric_name, value, standard_error, num_judged, num_prompts, is_complete
    FROM evaluation WHERE run = {run:String} ORDER BY source, eval_step
"""
_MODES = """
    SELECT verifier, version, arrayStringConcat(arraySort(groupUniqArray(toString(current_mode))), ', ') AS mode
    FROM verifier_modes WHERE run = {run:String} GROUP BY verifier, version
"""
_LOADS = """
    SELECT
        verifier, version, countIf(state IN ('starting', 'ready')) AS num_processes, sum(num_restarts) AS num_restarts
    FROM verifier_loads WHERE run = {run:String} GROUP BY verifier, version
"""
_LATENCY = """
    SELECT
        verifier, version, groupUniqArray(toString(source)) AS sources, count() AS num_rewards,
        countIf(status = 'scored') AS num_scored, countIf(status = 'unscorable') AS num_unscorable,
        countIf(status = 'timeout') AS num_timeout, countIf(status = 'error') AS num_error,
        quantileExact(0.5)(score_seconds) AS score_seconds_p50,
        quantileExact(0.95)(score_seconds) AS score_seconds_p95,
        quantileExact(0.95)(queued_seconds) AS queued_seconds_p95
    FROM (SELECT verifier, version, source, status, score_seconds, queued_seconds FROM rewards FINAL
          WHERE run = {run:String})
    GROUP BY verifier, version
"""
_CHANGES = """
    SELECT kind, what, text, reason, from_number, at_step, toUnixTimestamp64Milli(created) AS created_ms
    FROM change_marks WHERE run = {run:String} ORDER BY created DESC, from_number DESC LIMIT {limit:UInt32}
"""
_NEWEST_CHANGES = """
    SELECT verifier, version, argMax(kind, created) AS kind FROM run_changes
    WHERE run = {run:String} AND verifier != '' GROUP BY verifier, version
"""
_DEAD_LETTERS = """
    SELECT uniqExact(topic, log_partition, log_offset) AS n FROM dead_letters WHERE run = {run:String}
"""

UNUSED = "unused"
"""Mode of a verifier version that no sample asks for."""
MODES = {"add": "shadow", "promote": "active", "demote": "shadow", "retire": "retired"}
"""Mode of a verifier version by what was commanded last of it."""
MAX_CHANGES = 100


def describe_run(settings: MonitorSettings) -> dict[str, Any]:
    """What the run file says that the page and the report show, as JSON values."""
    return {
        "run": settings.run.id,
        "total_steps": settings.run.steps,
        "model": "/".join(settings.model.path.parts[-2:]),
        "groups_per_step": settings.rollout.groups_per_step,
        "group_size": settings.rollout.group_size,
        "max_staleness": settings.rollout.max_staleness,
        "sources": [{"name": source.name, "metric": source.metric} for source in settings.sources],
    }


def read_overview(client: Client, run: str) -> dict[str, Any]:
    """State, work, groups, evaluation by source, verifiers and changes of a run, as JSON values."""
    step = select_one(client, _STEP, run=run)
    return {
        "run": run,
        "step": step,
        "step_seconds": select_one(client, _STEP_SECONDS, run=run)["seconds"],
        "policy": select_one(client, _POLICY, run=run),
        "work": select_one(client, _WORK, run=run),
        "groups": read_groups(client, run),
        "evaluation": read_evaluation(client, run),
        "verifiers": _read_verifiers(client, run),
        "changes": select(client, _CHANGES, run=run, limit=MAX_CHANGES),
        "num_dead_letters": select_one(client, _DEAD_LETTERS, run=run)["n"],
    }


def read_groups(client: Client, run: str) -> dict[str, Any]:
    """Training groups: dispatched, used by steps, trained for good, dropped by reason, pending."""
    dispatched = select_one(client, _DISPATCHED, run=run)["n"]
    settled = select(client, _SETTLED, run=run)
    trained = sum(row["n"] for row in settled if row["fate"] == "trained")
    dropped = {row["reason"]: row["n"] for row in settled if row["fate"] == "dropped"}
    return {
        "dispatched": dispatched,
        "used": select_one(client, _USED, run=run)["n"],
        "trained": trained,
        "dropped": dropped,
        "pending": dispatched - trained - sum(dropped.values()),
    }


def read_evaluation(client: Client, run: str) -> dict[str, Any]:
    """By source: the metric's name, all rounds, the first complete one and the newest complete one."""
    by_source: dict[str, Rows] = {}
    for row in select(client, _EVALUATION, run=run):
        by_source.setdefault(row["source"], []).append(row)
    result = {}
    for source, rounds in by_source.items():
        complete = [row for row in rounds if row["is_complete"]]
        result[source] = {
            "metric": rounds[0]["metric_name"],
            "rounds": rounds,
            "before": complete[0] if complete and complete[0]["eval_step"] == 0 else None,
            "now": complete[-1] if complete else None,
        }
    return result


def _read_verifiers(client: Client, run: str) -> Rows:
    """Every verifier version that a sample asks for, a process serves, or that scored."""
    merged: dict[tuple[str, str], dict[str, Any]] = {}
    for query in (_MODES, _LOADS, _LATENCY):
        for row in select(client, query, run=run):
            unknown = {"mode": UNUSED, "num_processes": 0, "num_restarts": 0, "num_rewards": 0}
            merged.setdefault((row["verifier"], row["version"]), unknown).update(row)
    for row in select(client, _NEWEST_CHANGES, run=run):
        key = (row["verifier"], row["version"])
        unknown = {"num_processes": 0, "num_restarts": 0, "num_rewards": 0}
        merged[key] = {**unknown, **merged.get(key, {}), **row, "mode": MODES[row["kind"]]}
    return [merged[key] for key in sorted(merged)]

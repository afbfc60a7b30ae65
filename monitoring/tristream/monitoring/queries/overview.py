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
        sum(t.num_rollouts) AS num_rollouts,
        sum(t.num_tokens) AS num_tokens,
        sumIf(t.num_tokens, bucket > now() - INTERVAL 70 SECOND) / 70 AS tokens_per_second,
        sumIf(t.num_rollouts, bucket > now() - INTERVAL 70 SECOND) / 70 AS rollouts_per_second,
        toUnixTimestamp(min(bucket)) * 1000 AS first_ms,
        toUnixTimestamp(max(bucket)) * 1000 AS last_ms,
        sum(t.num_tokens) / greatest(10, (last_ms - first_ms) / 1000) AS mean_tokens_per_second
    FROM throughput AS t WHERE run = {run:String}
"""
# Of the newest step, over all judged rollouts, trained or dropped.
_REWARD = """
    SELECT sum(judged_reward * num_judged) / sum(num_judged) AS reward FROM source_groups
    WHERE run = {run:String} AND step = (SELECT max(step) FROM steps WHERE run = {run:String})
"""
_CLOSED = """
    SELECT toInt64(intDiv(max(closing), 1000000)) AS closed_ms FROM closings WHERE run = {run:String} AND kind = 'step'
"""
_DISPATCHED = "SELECT uniqExact(number) AS n FROM prompts WHERE run = {run:String} AND split = 'train'"
_USED = "SELECT sum(num_groups) AS n FROM steps FINAL WHERE run = {run:String}"
_SETTLED = """
    SELECT fate, reason, uniqExact(number) AS n FROM group_outcomes
    WHERE run = {run:String} GROUP BY fate, reason ORDER BY n DESC, reason
"""
_COUNTED = """
    SELECT fate, reason, sum(num_groups) AS n FROM settled_groups
    WHERE run = {run:String} GROUP BY fate, reason ORDER BY n DESC, reason
"""
_EVALUATION = """
    SELECT
        source, eval_step, eval_attempt, metric_name, value, standard_error, num_judged, num_unscored, num_prompts,
        coverage, is_complete
    FROM evaluation WHERE run = {run:String} ORDER BY source, eval_step
"""
# What samples ask for is what the newest of them ask for.
_MODES = """
    SELECT verifier, version, arrayStringConcat(arraySort(groupUniqArray(mode)), ', ') AS mode
    FROM (
        SELECT source, verifier, version, toString(argMax(mode, created)) AS mode FROM prompts
        ARRAY JOIN term_verifiers AS verifier, term_versions AS version, term_modes AS mode
        WHERE run = {run:String}
            AND number > (SELECT max(number) - 1024 FROM prompts WHERE run = {run:String} AND split = 'train')
        GROUP BY source, verifier, version
    )
    GROUP BY verifier, version
"""
_LOADS = """
    SELECT
        verifier, version, countIf(state IN ('starting', 'ready')) AS num_processes, sum(num_restarts) AS num_restarts
    FROM verifier_loads WHERE run = {run:String} GROUP BY verifier, version
"""
# Of each source by itself; of the times the largest is shown.
_LATENCY = """
    SELECT
        verifier, version, groupUniqArray(toString(source)) AS sources, sum(v.num_rewards) AS num_rewards,
        sum(v.num_scored) AS num_scored, sum(v.num_unscorable) AS num_unscorable,
        sum(v.num_timeout) AS num_timeout, sum(v.num_error) AS num_error,
        max(v.score_seconds_p50) AS score_seconds_p50, max(v.score_seconds_p95) AS score_seconds_p95,
        max(v.queued_seconds_p95) AS queued_seconds_p95
    FROM verifier_scores AS v WHERE run = {run:String} GROUP BY verifier, version
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


def read_head(client: Client, run: str) -> dict[str, Any]:
    """What the head of the page shows at once: the newest step and its reward, the work done, what was lost.

    ``closed_ms`` is the time when figures of steps were closed last, which is when curves change.
    """
    return {
        "run": run,
        "step": select_one(client, _STEP, run=run),
        "step_seconds": select_one(client, _STEP_SECONDS, run=run)["seconds"],
        "work": select_one(client, _WORK, run=run),
        "reward": select_one(client, _REWARD, run=run)["reward"],
        "closed_ms": select_one(client, _CLOSED, run=run)["closed_ms"],
        "num_dead_letters": select_one(client, _DEAD_LETTERS, run=run)["n"],
    }


def read_verifiers(client: Client, run: str) -> dict[str, Any]:
    """Verifier versions with what they do, and what was changed while the run went on."""
    changes = select(client, _CHANGES, run=run, limit=MAX_CHANGES)
    return {"verifiers": _read_verifiers(client, run), "changes": changes}


def read_overview(client: Client, run: str) -> dict[str, Any]:
    """State, work, groups, evaluation by source, verifiers and changes of a run, as JSON values."""
    return {
        **read_head(client, run),
        "policy": select_one(client, _POLICY, run=run),
        "groups": read_group_counts(client, run),
        "evaluation": read_evaluation(client, run),
        **read_verifiers(client, run),
    }


def read_group_counts(client: Client, run: str) -> dict[str, Any]:
    """The same as ``read_groups``, counted as groups settle: cheap however long the run is."""
    return _count_groups(client, run, select(client, _COUNTED, run=run))


def read_groups(client: Client, run: str) -> dict[str, Any]:
    """Training groups: dispatched, used by steps, trained for good, dropped by reason, pending."""
    return _count_groups(client, run, select(client, _SETTLED, run=run))


def _count_groups(client: Client, run: str, settled: Rows) -> dict[str, Any]:
    trained = sum(row["n"] for row in settled if row["fate"] == "trained")
    dropped = {row["reason"]: row["n"] for row in settled if row["fate"] == "dropped"}
    dispatched = select_one(client, _DISPATCHED, run=run)["n"]
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

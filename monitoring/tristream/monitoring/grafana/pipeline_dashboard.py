"""The dashboard of the pipeline: who waits for whom, how far behind each part is, what it costs, what fails."""

from tristream.monitoring.grafana.dashboard import make_dashboard, stat
from tristream.monitoring.grafana.links import PIPELINE_UID
from tristream.monitoring.grafana.metric_panels import metric_panel
from tristream.monitoring.grafana.panels import Json, Panel, Row
from tristream.monitoring.grafana.variables import RUN, SOURCES, VERIFIERS


def build_pipeline() -> Json:
    """The dashboard as Grafana stores it."""
    return make_dashboard(
        PIPELINE_UID,
        "tristream pipeline",
        "The processes of a run: what each does or waits for, its lag, CPU and memory, and what verifiers take.",
        [_glance(), _parts(), _work(), _verifiers()],
    )


def _glance() -> Row:
    return Row(
        title="At a glance",
        panels=[
            stat("Silent processes", "Processes that have told nothing for a minute.",
                 f"SELECT countIf(state = 'silent') AS processes FROM part_states WHERE {RUN}", red_above=1),
            stat("Largest lag", "Records of one topic that a process has yet to read.",
                 f"""SELECT max(arrayMax(arrayConcat([0], mapValues(mapFilter((name, _) -> startsWith(name, 'lag_'),
    measures))))) AS records FROM part_states WHERE {RUN}"""),
            stat("Time spent waiting", "Share of the last 20 steps that the learner waited for a batch.",
                 f"""SELECT sum(wait_seconds) / sum(seconds) AS share
FROM (SELECT wait_seconds, seconds FROM step_times WHERE {RUN} ORDER BY step DESC LIMIT 20)""", "percentunit"),
            stat("Records not read", "Dead letters of the run.",
                 f"SELECT count() AS records FROM dead_letters FINAL WHERE {RUN}", red_above=1),
        ],
    )  # fmt: skip


def _parts() -> Row:
    parts = Panel(
        title="Parts",
        description="Every process: what it does or waits for, and when it last said so; silent after a minute.",
        sql=f"""SELECT part, instance, state, waiting_for, since, measures['version'] AS version, address,
    created AS last_word
FROM part_states WHERE {RUN} ORDER BY part, started""",
        kind="table",
        width=16,
    )
    loads = Panel(
        title="Scored by process",
        description="Rollouts that each process scored with each verifier version.",
        sql=f"""SELECT verifier, version, instance, state, num_scored AS scored, num_restarts AS restarts
FROM verifier_loads WHERE {RUN} AND {VERIFIERS} ORDER BY verifier, version, instance""",
        kind="table",
    )
    measured = [
        metric_panel(name, width=6) for name in ("lag_records", "cpu_cores", "memory_bytes", "gpu_memory_bytes")
    ]
    return Row(title="Parts", panels=[parts, loads, *measured])


def _work() -> Row:
    dead_letters = Panel(
        title="Newest dead letters",
        description="Records that could not be read, with the reason.",
        sql=f"""SELECT created, part, topic, log_partition AS partition, log_offset AS offset, source, error
FROM dead_letters FINAL WHERE {RUN} ORDER BY created DESC LIMIT 50""",
        kind="table",
        width=12,
    )
    drops = Panel(
        title="Dropped groups",
        description="Training groups that were dropped so far, by source and reason.",
        sql=f"""SELECT source, reason, num_groups AS dropped_groups, last_created AS newest
FROM drops WHERE {SOURCES} ORDER BY source, reason""",
        kind="table",
        width=12,
    )
    curves = [
        metric_panel("rollouts_per_second"),
        metric_panel("sampled_tokens_per_second"),
        metric_panel("step_seconds", "wait_seconds", title="Step and waiting"),
    ]
    dead = metric_panel("dead_letters")
    return Row(title="Work", panels=[*curves, drops, dead_letters, dead])


def _verifiers() -> Row:
    statuses = Panel(
        title="Scores by status",
        description="Only scored is a number: the others are never mistaken for zero.",
        sql=f"""SELECT verifier, version, source, num_scored AS scored, num_unscorable AS unscorable,
    num_timeout AS timeout, num_error AS error, score_seconds_p50 AS score_p50, score_seconds_p95 AS score_p95,
    queued_seconds_p95 AS queued_p95
FROM verifier_scores WHERE {SOURCES} AND {VERIFIERS} ORDER BY verifier, version, source""",
        kind="table",
        width=12,
        units_by_column=dict.fromkeys(("score_p50", "score_p95", "queued_p95"), "s"),
    )
    modes = Panel(
        title="Verifiers",
        description="What each source asks of each verifier version, and since which minute it answers.",
        sql=f"""SELECT verifier, version, source, argMax(mode, minute) AS newest_mode, min(minute) AS since,
    max(minute) AS last_scored
FROM verifier_minutes WHERE {SOURCES} AND {VERIFIERS} GROUP BY verifier, version, source
ORDER BY verifier, version, source""",
        kind="table",
        width=12,
    )
    curves = [
        metric_panel("score_seconds_p50", "score_seconds_p95", title="Scoring time"),
        metric_panel("queued_seconds_p95"),
        metric_panel("num_rewards"),
        metric_panel("num_timeout", "num_error", "num_unscorable", title="Rewards that are none"),
        metric_panel("unscored_share"),
    ]
    return Row(title="Verifiers", panels=[*curves, statuses, modes])

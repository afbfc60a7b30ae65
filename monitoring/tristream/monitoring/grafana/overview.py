"""The overview dashboard: one run, its sources side by side.

Every query filters by the variable ``run``, and by ``source`` where rows have a source. The x axis is time; a point of
a per-source curve is a training step. Heavy lifting is done by the views of ``sql/``.
"""

from tristream.monitoring.grafana.panels import DATASOURCE, Json, Panel, Row, lay_out, make_target
from tristream.monitoring.grafana.variables import datasource_variable, query_variable
from tristream.monitoring.metrics import SOURCE_METRICS

DASHBOARD_UID = "tristream-overview"
DATASOURCE_UID = "tristream-clickhouse"
"""Uid of the provisioned data source, which the dashboard picks first."""

_RUN = "run = ${run:sqlstring}"
_SOURCES = f"{_RUN} AND source IN (${{source:sqlstring}})"
_STEP = f'SELECT max(step) AS "done", max(total_steps) AS "of" FROM steps WHERE {_RUN}'
_SOURCE_NAME = "${__field.labels.source}"
MISMATCH_PREFIX = "logprob_mismatch_age_"
"""Begins the learner's metrics of the log-probability mismatch of rollouts of one age."""


def build_overview() -> Json:
    """The dashboard as Grafana stores it."""
    return {
        "uid": DASHBOARD_UID,
        "title": "tristream overview",
        "description": "One run: what it learns by source, what becomes of its groups, what each part costs.",
        "tags": ["tristream"],
        "schemaVersion": 39,
        "editable": False,
        "graphTooltip": 1,
        "timezone": "browser",
        "time": {"from": "now-3h", "to": "now"},
        "refresh": "30s",
        "timepicker": {"refresh_intervals": ["10s", "30s", "1m", "5m"]},
        "links": [],
        "annotations": {"list": [_commands(), _verifier_changes()]},
        "templating": {"list": _variables()},
        "panels": lay_out([_glance(), _learning(), _groups(), _learner(), _work(), _verifiers(), _parts(), _samples()]),
    }


def _variables() -> list[Json]:
    runs = "SELECT run FROM sources GROUP BY run ORDER BY max(created) DESC"
    sources = f"SELECT source FROM sources FINAL WHERE {_RUN} ORDER BY position"
    return [
        datasource_variable("datasource", "ClickHouse", uid=DATASOURCE_UID),
        query_variable("run", "Run", runs),
        query_variable("source", "Source", sources, is_multiple=True),
    ]


def _verifier_changes() -> Json:
    sql = f"""SELECT since AS time, concat(verifier, ' ', version, ': ', mode) AS text, 'verifier' AS tags
FROM verifier_changes WHERE {_RUN} AND $__timeFilter(since) ORDER BY time"""
    return {
        "name": "Verifier modes",
        "datasource": DATASOURCE,
        "enable": True,
        "iconColor": "purple",
        "target": make_target(sql, is_time_series=False),
    }


def _commands() -> Json:
    sql = f"""SELECT created AS time, concat(text, if(reason = '', '', concat(': ', reason))) AS text, kind AS tags
FROM run_changes WHERE {_RUN} AND $__timeFilter(created) ORDER BY time"""
    return {
        "name": "Commands",
        "datasource": DATASOURCE,
        "enable": True,
        "iconColor": "orange",
        "target": make_target(sql, is_time_series=False),
    }


def _by_source(view: str, column: str, *, time: str = "created", condition: str = "") -> str:
    """A curve a source, of a view's column."""
    return f"""SELECT {time} AS time, source, {column} AS value
FROM {view} WHERE {_SOURCES} AND $__timeFilter({time}){condition} ORDER BY time"""


def _stat(title: str, description: str, sql: str, unit: str = "short", red_above: float | None = None) -> Panel:
    return Panel(
        title=title, description=description, sql=sql, kind="stat", unit=unit, width=3, height=4, red_above=red_above
    )


def _source_panel(title: str, description: str, sql: str, *, is_share: bool = False) -> Panel:
    unit = "percentunit" if is_share else "short"
    return Panel(title=title, description=description, sql=sql, unit=unit, series_name=_SOURCE_NAME)


def _metric_panel(name: str) -> Panel:
    metric = next(metric for metric in SOURCE_METRICS if metric.name == name)
    sql = _by_source(metric.view, name)
    return _source_panel(metric.title, metric.description, sql, is_share=metric.is_share)


def _glance() -> Row:
    return Row(title="At a glance", panels=[*_progress_stats(), *_health_stats()])


def _progress_stats() -> list[Panel]:
    newest = (
        f"SELECT argMax(value, eval_step) AS newest FROM evaluation WHERE {_SOURCES} AND is_complete GROUP BY source"
    )
    return [
        _stat("Step", "Optimizer steps done, of all.", _STEP),
        _stat(
            "Held-out",
            "Mean over the sources of the newest complete evaluation.",
            f"SELECT avg(newest) AS value FROM ({newest})",
            "percentunit",
        ),
        _stat(
            "Step time",
            "Median seconds of the last 20 steps, waiting included.",
            f"""SELECT quantile(0.5)(arraySum(mapValues(phase_seconds))) AS seconds
FROM (SELECT phase_seconds FROM steps FINAL WHERE {_RUN} ORDER BY step DESC LIMIT 20)""",
            "s",
        ),
        _stat(
            "Tokens/s",
            "Completion tokens generated a second, over the last minute.",
            f"SELECT sum(num_tokens) / 60 AS rate FROM throughput WHERE {_SOURCES} AND bucket > now() - 60",
        ),
    ]


def _health_stats() -> list[Panel]:
    return [
        _stat(
            "Groups dropped",
            "Share of the settled groups that were dropped.",
            f"SELECT countIf(fate = 'dropped') / count() AS share FROM group_outcomes WHERE {_SOURCES}",
            "percentunit",
        ),
        _stat(
            "Largest age",
            "Policy versions from the newest batch's oldest rollout to the version it trained.",
            f"SELECT argMax(max_age, step) AS versions FROM steps FINAL WHERE {_RUN}",
        ),
        _stat(
            "Not scored",
            "Share of rewards that are unscorable, timed out or failed.",
            f"SELECT countIf(status != 'scored') / count() AS share FROM rewards FINAL WHERE {_SOURCES}",
            "percentunit",
            red_above=0.01,
        ),
        _stat(
            "Dead letters",
            "Records that could not be read.",
            f"SELECT count() AS records FROM dead_letters FINAL WHERE {_RUN}",
            red_above=1,
        ),
    ]


def _learning() -> Row:
    held_out = _source_panel(
        "Held-out evaluation",
        "The source's metric on held-out rows, answered greedily; complete rounds only.",
        _by_source("evaluation", "value", time="last_created", condition=" AND is_complete"),
        is_share=True,
    )
    names = ("judged_reward", "mean_reward", "mean_metric", "mean_length", "judged_truncated_share", "entropy")
    return Row(title="Learning, by source", panels=[held_out, *map(_metric_panel, names)])


def _groups() -> Row:
    fates = Panel(
        title="Fates of groups",
        description="Settled groups. Trained ones are reported when a checkpoint that covers them is durable.",
        sql=f"""SELECT $__timeInterval(created) AS time,
    if(fate = 'dropped', concat('dropped: ', reason), toString(fate)) AS outcome, count() AS groups
FROM group_outcomes WHERE {_SOURCES} AND $__timeFilter(created) GROUP BY time, outcome ORDER BY time""",
        series_name="${__field.labels.outcome}",
        is_stacked=True,
    )
    names = ("solve_all_share", "solve_none_share", "zero_variance_share", "mean_age")
    return Row(title="Groups", panels=[fates, *map(_metric_panel, names)])


def _learner() -> Row:
    loss = Panel(
        title="Loss",
        description="Loss of a step.",
        sql=f"""SELECT created AS time, metrics['loss'] AS loss
FROM steps FINAL WHERE {_RUN} AND $__timeFilter(created) ORDER BY time""",
    )
    gradient = Panel(
        title="Gradient norm and learning rate",
        description="Global gradient norm before clipping (left), learning rate (right).",
        sql=f"""SELECT created AS time, metrics['grad_norm'] AS grad_norm, metrics['learning_rate'] AS learning_rate
FROM steps FINAL WHERE {_RUN} AND $__timeFilter(created) ORDER BY time""",
        units_by_column={"learning_rate": "sci"},
    )
    phases = Panel(
        title="Seconds of a step",
        description="By phase. Mostly wait: generation or scoring is the bottleneck, not the learner.",
        sql=f"""SELECT created AS time, phase, seconds
FROM steps FINAL ARRAY JOIN mapKeys(phase_seconds) AS phase, mapValues(phase_seconds) AS seconds
WHERE {_RUN} AND $__timeFilter(created) ORDER BY time, phase""",
        unit="s",
        series_name="${__field.labels.phase}",
        is_stacked=True,
    )
    return Row(title="Learner", panels=[loss, gradient, phases, *_trust_panels()])


def _trust_panels() -> list[Panel]:
    """How far the updates are to be trusted, and what they cost."""

    def of_metrics(*names: str) -> str:
        columns = ", ".join(f"metrics['{name}'] AS {name}" for name in names)
        return f"""SELECT created AS time, {columns}
FROM steps FINAL WHERE {_RUN} AND $__timeFilter(created) ORDER BY time"""

    off_policy = Panel(
        title="Off-policy",
        description="Effective sample size of the importance weights, 1 if all are equal; share of tokens whose ratio"
        " is above 2 or below 1/2; largest ratio (right). Over trained tokens.",
        sql=of_metrics("effective_sample_size", "ratio_tail_share", "max_ratio"),
        units_by_column={"max_ratio": "none"},
    )
    mismatch = Panel(
        title="Log-probability mismatch by age",
        description="Mean absolute log ratio of trained tokens, nats, by the age of their rollout in policy versions."
        " Age 0 is what sampler and learner compute differently.",
        sql=f"""SELECT created AS time, replaceOne(name, '{MISMATCH_PREFIX}', 'age ') AS age, value
FROM steps FINAL ARRAY JOIN mapKeys(metrics) AS name, mapValues(metrics) AS value
WHERE {_RUN} AND startsWith(name, '{MISMATCH_PREFIX}') AND $__timeFilter(created) ORDER BY time, age""",
        series_name="${__field.labels.age}",
    )
    skipped = Panel(
        title="Skipped updates",
        description="Updates that were left out since a number was not finite, by what was not: loss, gradient or"
        " log-probabilities. The learner's log names the groups.",
        sql=of_metrics("skipped_updates", "skipped_loss", "skipped_gradient", "skipped_logprobs"),
    )
    use = Panel(
        title="Speed and use of the device",
        description="Completion tokens that a second of training takes in (left); share of the peak FLOPs (right).",
        sql=of_metrics("tokens_per_second", "model_flops_utilisation"),
        units_by_column={"model_flops_utilisation": "percentunit"},
    )
    return [off_policy, mismatch, skipped, use]


def _work() -> Row:
    def rate(column: str) -> str:
        return f"""SELECT $__timeInterval(bucket) AS time, source, sum({column}) / $__interval_s AS rate
FROM throughput WHERE {_SOURCES} AND $__timeFilter(bucket) GROUP BY time, source ORDER BY time"""

    panels = [
        Panel(
            title=f"{what} a second",
            description=f"{what} that producers published.",
            sql=rate(column),
            width=12,
            series_name=_SOURCE_NAME,
            is_stacked=True,
            min_interval="10s",
        )
        for what, column in (("Rollouts", "num_rollouts"), ("Completion tokens", "num_tokens"))
    ]
    return Row(title="Generation", panels=panels)


def _verifiers() -> Row:
    latency = Panel(
        title="Scoring time",
        description="Seconds that a verifier took for one rollout.",
        sql=f"""SELECT $__timeInterval(created) AS time, verifier,
    quantile(0.5)(score_seconds) AS p50, quantile(0.95)(score_seconds) AS p95
FROM rewards FINAL WHERE {_SOURCES} AND $__timeFilter(created) GROUP BY time, verifier ORDER BY time""",
        unit="s",
        series_name="${__field.labels.verifier} ${__field.name}",
    )
    statuses = Panel(
        title="Scores by status",
        description="Only scored is a number: the others are never mistaken for zero.",
        sql=f"""SELECT verifier, version, source, num_scored AS scored, num_unscorable AS unscorable,
    num_timeout AS timeout, num_error AS error, score_seconds_p50 AS score_p50, score_seconds_p95 AS score_p95,
    queued_seconds_p95 AS queued_p95
FROM verifier_scores WHERE {_SOURCES} ORDER BY verifier, version, source""",
        kind="table",
        units_by_column=dict.fromkeys(("score_p50", "score_p95", "queued_p95"), "s"),
    )
    modes = Panel(
        title="Verifiers",
        description="What each source asks of each verifier version, and since when.",
        sql=f"""SELECT verifier, version, source, current_mode AS mode,
    first_created AS since, last_created AS last_asked
FROM verifier_modes WHERE {_SOURCES} ORDER BY verifier, version, source""",
        kind="table",
    )
    return Row(title="Verifiers", panels=[latency, statuses, modes])


def _parts() -> Row:
    parts = Panel(
        title="Parts",
        description="Every process: what it does or waits for, and when it last said so; silent after a minute.",
        sql=f"""SELECT part, instance, state, waiting_for, since, measures['version'] AS version, address,
    created AS last_word
FROM part_states WHERE {_RUN} ORDER BY part, started""",
        kind="table",
        width=16,
    )
    loads = Panel(
        title="Scored by process",
        description="Rollouts that each process scored with each verifier version.",
        sql=f"""SELECT verifier, version, instance, state, num_scored AS scored, num_restarts AS restarts
FROM verifier_loads WHERE {_RUN} ORDER BY verifier, version, instance""",
        kind="table",
    )
    return Row(title="Parts", panels=[parts, loads])


def _samples() -> Row:
    rollouts = Panel(
        title="Newest rollouts",
        description="What the policy says now, and what it earned.",
        sql=f"""SELECT n.created AS created, n.source AS source, split, dispatch_step AS step, number, rollout_index,
    round(reward, 3) AS final_reward, round(metric_value, 3) AS metric, n.finish_reason AS finish,
    n.prompt_text AS prompt, n.text AS answer, n.ground_truth AS truth
FROM (SELECT * FROM rollouts FINAL WHERE {_SOURCES} AND $__timeFilter(created) ORDER BY created DESC LIMIT 50) AS n
INNER JOIN (SELECT * FROM scored_rollouts WHERE {_SOURCES}) AS s
    USING (split, eval_step, eval_attempt, number, rollout_index)
ORDER BY created DESC, number, rollout_index""",
        kind="table",
        width=16,
        height=12,
    )
    dead_letters = Panel(
        title="Newest dead letters",
        description="Records that could not be read, with the reason.",
        sql=f"""SELECT created, part, topic, log_partition AS partition, log_offset AS offset, source, error
FROM dead_letters FINAL WHERE {_RUN} ORDER BY created DESC LIMIT 50""",
        kind="table",
        height=12,
    )
    return Row(title="Samples", panels=[rollouts, dead_letters])

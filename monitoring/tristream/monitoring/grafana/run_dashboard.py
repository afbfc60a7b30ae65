"""The dashboard of a run: what it learns by source, what becomes of its groups, how its learner fares.

The x axis is time; a point of a per-source curve is a training step. Heavy lifting is done by the views of ``sql/``.
"""

from tristream.monitoring.grafana.dashboard import make_dashboard, stat
from tristream.monitoring.grafana.links import RUN_UID, run_with_its_time
from tristream.monitoring.grafana.metric_panels import metric_panel
from tristream.monitoring.grafana.panels import Json, Panel, Row
from tristream.monitoring.grafana.variables import RUN, SOURCES

MISMATCH_PREFIX = "logprob_mismatch_age_"
"""Begins the learner's metrics of the log-probability mismatch of rollouts of one age."""

_STEP = f'SELECT max(step) AS "done", max(total_steps) AS "of" FROM steps WHERE {RUN}'


def build_run() -> Json:
    """The dashboard as Grafana stores it."""
    return make_dashboard(
        RUN_UID,
        "tristream run",
        "One run: what it learns by source, what becomes of its groups, what its learner does.",
        [_runs(), _glance(), _learning(), _groups(), _learner()],
    )


def _runs() -> Row:
    # A minute on each side, so that the first and the last step are not on the edge.
    sql = """SELECT s.run AS run, began, last_step, step, total_steps,
    toUnixTimestamp(began) * 1000 - 60000 AS from_ms,
    toUnixTimestamp(greatest(last_step, began)) * 1000 + 60000 AS to_ms
FROM (SELECT run, min(created) AS began FROM sources GROUP BY run) AS s
LEFT JOIN (
    SELECT run, max(created) AS last_step, max(step) AS step, max(total_steps) AS total_steps FROM steps GROUP BY run
) AS d ON d.run = s.run
ORDER BY began DESC LIMIT 100"""
    runs = Panel(
        title="Runs",
        description="All runs, the newest first. A click on one shows it in the time range in which it happened.",
        sql=sql,
        kind="table",
        width=24,
        height=6,
        links=[run_with_its_time()],
        hidden_columns=("from_ms", "to_ms"),
    )
    return Row(title="Runs", panels=[runs])


def _glance() -> Row:
    return Row(title="At a glance", panels=[*_progress_stats(), *_health_stats()])


def _progress_stats() -> list[Panel]:
    newest = (
        f"SELECT argMax(value, eval_step) AS newest FROM evaluation WHERE {SOURCES} AND is_complete GROUP BY source"
    )
    return [
        stat("Progress", "Optimizer steps done, of all.", _STEP),
        stat(
            "Held-out mean",
            "Mean over the sources of the newest complete evaluation.",
            f"SELECT avg(newest) AS value FROM ({newest})",
            "percentunit",
        ),
        stat(
            "Step time",
            "Median wall seconds of the last 20 steps, waiting included.",
            f"""SELECT quantile(0.5)(seconds) AS seconds
FROM (SELECT seconds FROM step_times WHERE {RUN} ORDER BY step DESC LIMIT 20)""",
            "s",
        ),
        stat(
            "Tokens/s",
            "Tokens that producers sampled a second, over the last minute.",
            f"SELECT sum(num_tokens) / 60 AS rate FROM throughput WHERE {SOURCES} AND bucket > now() - 60",
        ),
    ]


def _health_stats() -> list[Panel]:
    return [
        stat(
            "Groups dropped",
            "Share of the groups that were dropped, of those that were trained or dropped.",
            f"""SELECT dropped / (dropped + trained) AS share
FROM (SELECT sum(num_groups) AS dropped FROM drops WHERE {SOURCES}) AS d,
    (SELECT sum(num_groups) AS trained FROM source_steps WHERE {SOURCES}) AS t""",
            "percentunit",
        ),
        stat(
            "Age of the newest batch",
            "Policy versions from the newest batch's oldest rollout to the version it trained.",
            f"SELECT argMax(max_age, step) AS versions FROM steps WHERE {RUN}",
        ),
        stat(
            "Not scored",
            "Share of rewards that are unscorable, timed out or failed.",
            f"SELECT 1 - sum(num_scored) / sum(num_rewards) AS share FROM verifier_scores WHERE {SOURCES}",
            "percentunit",
            red_above=0.01,
        ),
        stat(
            "Dead letters",
            "Records that could not be read.",
            f"SELECT count() AS records FROM dead_letters FINAL WHERE {RUN}",
            red_above=1,
        ),
    ]


def _learning() -> Row:
    names = ("evaluation", "judged_reward", "mean_reward", "mean_metric", "mean_length", "judged_truncated_share",
             "entropy", "coverage")  # fmt: skip
    return Row(title="Learning, by source", panels=[metric_panel(name) for name in names])


def _groups() -> Row:
    fates = Panel(
        title="Fates of groups",
        description="Training groups so far: trained, or dropped for which reason.",
        sql=f"""SELECT source, concat('dropped: ', reason) AS outcome, num_groups AS groups, last_created AS newest
FROM drops WHERE {SOURCES}
UNION ALL
SELECT source, 'trained' AS outcome, sum(num_groups) AS groups, max(created) AS newest
FROM source_steps WHERE {SOURCES} GROUP BY source
ORDER BY source, outcome""",
        kind="table",
    )
    names = ("solve_all_share", "solve_none_share", "zero_variance_share", "mean_age")
    return Row(title="Groups", panels=[*(metric_panel(name) for name in names), fates])


def _learner() -> Row:
    mismatch = Panel(
        title="Log-probability mismatch by age",
        description="Mean absolute log ratio of trained tokens, nats, by the age of their rollout in policy versions."
        " Age 0 is what sampler and learner compute differently.",
        sql=f"""SELECT created AS time, replaceOne(name, '{MISMATCH_PREFIX}', 'age ') AS age, value
FROM steps FINAL ARRAY JOIN mapKeys(metrics) AS name, mapValues(metrics) AS value
WHERE {RUN} AND startsWith(name, '{MISMATCH_PREFIX}') AND $__timeFilter(created) ORDER BY time, age""",
        series_name="${__field.labels.age}",
    )
    panels = [
        metric_panel("loss"),
        metric_panel("grad_norm", "learning_rate", title="Gradient norm and learning rate"),
        metric_panel("step_seconds", "wait_seconds", "step_tokens", title="Step time and tokens"),
        metric_panel("phase_seconds"),
        metric_panel("effective_sample_size", "ratio_tail_share", "max_ratio", title="Off-policy"),
        mismatch,
        metric_panel("skipped_updates"),
        metric_panel("tokens_per_second", "model_flops_utilisation", title="Speed and use of the device"),
        metric_panel("step_age"),
    ]
    return Row(title="Learner", panels=panels)

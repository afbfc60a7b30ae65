"""Metrics of a whole run: its steps, its work, and its processes."""

from tristream.monitoring.registry.metric import Metric, Unit

_CPU = """(
    SELECT run, part, instance, minute, measures['cpu_seconds'] AS cpu_seconds,
        lagInFrame(toNullable(cpu_seconds)) OVER newest AS cpu_seconds_before, lagInFrame(minute) OVER newest AS before
    FROM part_minutes WHERE mapContains(measures, 'cpu_seconds')
    WINDOW newest AS (PARTITION BY run, part, instance ORDER BY minute ROWS BETWEEN 1 PRECEDING AND CURRENT ROW)
)"""


def _of_learner(name: str, title: str, unit: Unit, meaning: str) -> Metric:
    """A number that the learner reports with each step, by its name."""
    return Metric(
        name=name,
        title=title,
        unit=unit,
        meaning=meaning,
        view="steps",
        table="steps FINAL",
        column=f"if(mapContains(metrics, '{name}'), metrics['{name}'], NULL)",
        per=(),
        dashboards=("run",),
    )


STEP_METRICS = (
    Metric(name="step_seconds", title="Step", unit=Unit.SECONDS, view="step_times", column="seconds", per=(),
           meaning="Wall seconds of a step: all phases of the learner, with the wait for its batch.",
           dashboards=("run", "pipeline")),
    Metric(name="wait_seconds", title="Waiting", unit=Unit.SECONDS, view="step_times", per=(),
           meaning="Seconds of a step in which the learner waited for a batch. Mostly that: generation or scoring is"
           " the bottleneck, not the learner.", dashboards=("run", "pipeline")),
    Metric(name="step_tokens", title="Trained tokens", unit=Unit.TOKENS, view="step_times",
           column="num_completion_tokens", per=(), meaning="Sampled tokens that a step trained on.",
           dashboards=("run",)),
    Metric(name="step_age", title="Largest age", unit=Unit.VERSIONS, view="steps", table="steps FINAL",
           column="max_age", per=(), dashboards=("run",),
           meaning="Policy versions from the oldest rollout of a step's batch to the version that it trained."),
    Metric(name="phase_seconds", title="Seconds of a step", unit=Unit.SECONDS, view="steps",
           table="steps FINAL ARRAY JOIN mapKeys(phase_seconds) AS phase, mapValues(phase_seconds) AS seconds",
           column="seconds", per=("phase",), meaning="Seconds that the learner spent in each phase of a step.",
           dashboards=("run",)),
    _of_learner("loss", "Loss", Unit.NUMBER, "Loss of a step, over its trained tokens."),
    _of_learner("grad_norm", "Gradient norm", Unit.NUMBER, "Norm of the whole gradient of a step before clipping."),
    _of_learner("learning_rate", "Learning rate", Unit.NUMBER, "Learning rate with which a step updated."),
    _of_learner("effective_sample_size", "Effective sample size", Unit.SHARE,
                "Effective sample size of the importance weights over trained tokens; 1 if all are equal."),
    _of_learner("ratio_tail_share", "Tail of ratios", Unit.SHARE,
                "Share of trained tokens whose ratio is above 2 or below 1/2."),
    _of_learner("max_ratio", "Largest ratio", Unit.NUMBER, "Largest importance ratio of a trained token."),
    _of_learner("skipped_updates", "Skipped updates", Unit.NUMBER,
                "Updates of a step that were left out since a number was not finite. The learner's log names the"
                " groups."),
    _of_learner("tokens_per_second", "Training speed", Unit.PER_SECOND,
                "Sampled tokens that a second of training takes in."),
    _of_learner("model_flops_utilisation", "Use of the device", Unit.SHARE, "Share of the device's peak FLOPs."),
)  # fmt: skip

WORK_METRICS = (
    Metric(name="rollouts_per_second", title="Rollouts a second", unit=Unit.PER_SECOND, view="throughput",
           time="bucket", meaning="Rollouts that producers published in ten seconds, a second.",
           dashboards=("pipeline",)),
    Metric(name="sampled_tokens_per_second", title="Tokens a second", unit=Unit.PER_SECOND, view="throughput",
           column="tokens_per_second", time="bucket", dashboards=("pipeline",),
           meaning="Tokens that producers sampled in ten seconds, a second."),
    Metric(name="dropped_groups", title="Dropped groups", unit=Unit.GROUPS, view="drops", column="num_groups",
           per=("source", "reason"), time="last_created", dashboards=("pipeline",),
           meaning="Training groups that were dropped so far, by reason."),
    Metric(name="dead_letters", title="Dead letters", unit=Unit.RECORDS, view="dead_letters", per=("part", "topic"),
           table="(SELECT run, part, topic, toStartOfMinute(created) AS minute, count() AS num_records"
           " FROM dead_letters FINAL GROUP BY run, part, topic, minute)", column="num_records", time="minute",
           dashboards=("pipeline",), meaning="Records of a minute that a part could not read."),
)  # fmt: skip

_PROCESS = ("part", "instance")

PART_METRICS = (
    Metric(name="cpu_cores", title="CPU", unit=Unit.CORES, view="part_minutes", table=_CPU, per=_PROCESS,
           column="if(cpu_seconds >= cpu_seconds_before,"
           " (cpu_seconds - cpu_seconds_before) / dateDiff('second', before, minute), NULL)",
           time="minute", dashboards=("pipeline",),
           meaning="CPU cores that a process kept busy since the minute before that it told of."),
    Metric(name="memory_bytes", title="Memory", unit=Unit.BYTES, view="part_minutes", per=_PROCESS, time="minute",
           column="measures['memory_bytes']", where="mapContains(measures, 'memory_bytes')", dashboards=("pipeline",),
           meaning="Resident memory of a process."),
    Metric(name="gpu_memory_bytes", title="GPU memory", unit=Unit.BYTES, view="part_minutes", per=_PROCESS,
           time="minute", column="measures['gpu_memory_bytes']", where="mapContains(measures, 'gpu_memory_bytes')",
           dashboards=("pipeline",), meaning="Memory of the GPU that a process holds."),
    Metric(name="lag_records", title="Lag", unit=Unit.RECORDS, view="part_minutes", time="minute",
           table="part_minutes ARRAY JOIN mapKeys(measures) AS measure, mapValues(measures) AS amount",
           per=("part", "instance", "measure"), column="amount", where="startsWith(measure, 'lag_')",
           dashboards=("pipeline",), meaning="Records of each topic that a process has yet to read."),
)  # fmt: skip

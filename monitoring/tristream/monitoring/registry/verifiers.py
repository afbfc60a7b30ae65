"""Metrics of verifiers by version: how long scoring takes, what came of it, the threshold that holds."""

from tristream.monitoring.registry.metric import Dashboard, Metric, Unit

_PER = ("source", "verifier", "version", "mode")


def _of_a_minute(
    name: str, title: str, unit: Unit, meaning: str, column: str = "", dashboards: tuple[Dashboard, ...] = ("pipeline",)
) -> Metric:
    return Metric(
        name=name,
        title=title,
        unit=unit,
        meaning=meaning,
        view="verifier_minutes",
        column=column,
        per=_PER,
        time="minute",
        dashboards=dashboards,
    )


VERIFIER_METRICS = (
    _of_a_minute("score_seconds_p50", "Scoring time, median", Unit.SECONDS,
                 "Median seconds that a verifier version took to score a rollout, over the rewards of a minute.",
                 dashboards=("pipeline", "source")),
    _of_a_minute("score_seconds_p95", "Scoring time, 95 %", Unit.SECONDS,
                 "Seconds within which 95 % of the rewards of a minute were scored.",
                 dashboards=("pipeline", "source")),
    _of_a_minute("queued_seconds_p95", "Time in the queue, 95 %", Unit.SECONDS,
                 "Seconds within which the scoring of 95 % of the rewards of a minute began."),
    _of_a_minute("num_rewards", "Rewards", Unit.REWARDS, "Rewards that a verifier version gave in a minute."),
    _of_a_minute("num_timeout", "Timeouts", Unit.REWARDS,
                 "Rewards of a minute that are none, since scoring took longer than it may."),
    _of_a_minute("num_error", "Errors", Unit.REWARDS,
                 "Rewards of a minute that are none, since the verifier failed."),
    _of_a_minute("num_unscorable", "Unscorable", Unit.REWARDS,
                 "Rewards of a minute that are none, since the truth or the parameters cannot be used."),
    _of_a_minute("unscored_share", "Not scored", Unit.SHARE,
                 "Share of the rewards of a minute that are no number: timeouts, errors and unscorable ones.",
                 "1 - num_scored / num_rewards", dashboards=("pipeline", "source")),
    Metric(
        name="threshold",
        title="Active threshold",
        unit=Unit.SCORE,
        meaning="Mean of the dynamic threshold at which a verifier version judged the rollouts of a step: the IoU from"
        " which a box counts. Where it steps up, rewards fall and nothing else has changed.",
        view="verifier_steps",
        per=_PER,
        where="threshold IS NOT NULL",
        dashboards=("source",),
    ),
)  # fmt: skip

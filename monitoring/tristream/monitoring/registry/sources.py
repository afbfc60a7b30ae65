"""Metrics of a source by training step: what all judged rollouts are worth, and what was trained."""

from tristream.monitoring.registry.metric import Metric, Unit

JUDGED = "source_groups"
TRAINED = "source_steps"

MAIN_METRICS = (
    Metric(
        name="judged_reward",
        title="Reward",
        unit=Unit.SCORE,
        note="all judged rollouts",
        meaning="Mean final reward of all judged rollouts, in groups that were trained and in dropped ones.",
        view=JUDGED,
        page="main",
        dashboards=("run", "source"),
    ),
    Metric(
        name="mean_reward",
        title="Reward, trained only",
        unit=Unit.SCORE,
        note="without dropped groups",
        meaning="Mean final reward of the rollouts that a step trained on: groups without variance are not in it, so"
        " that it stays near the middle however good the policy is.",
        view=TRAINED,
        page="main",
        dashboards=("run", "source"),
    ),
    Metric(
        name="solve_all_share",
        title="Solved by all",
        unit=Unit.SHARE,
        note="share of judged groups",
        meaning="Share of whole judged groups whose answers all have the full reward: too easy to teach anything.",
        view=JUDGED,
        page="main",
        dashboards=("run", "source"),
    ),
    Metric(
        name="solve_none_share",
        title="Solved by none",
        unit=Unit.SHARE,
        note="share of judged groups",
        meaning="Share of whole judged groups whose answers have no reward at all: too hard to teach anything.",
        view=JUDGED,
        page="main",
        dashboards=("run", "source"),
    ),
    Metric(
        name="mean_metric",
        title="Metric",
        unit=Unit.SCORE,
        note="trained rollouts",
        meaning="Mean of the metric that evaluation reports, over the rollouts that a step trained on.",
        view=TRAINED,
        page="main",
        dashboards=("run", "source"),
    ),
    Metric(
        name="mean_length",
        title="Length",
        unit=Unit.TOKENS,
        note="tokens, trained rollouts",
        meaning="Mean tokens that a rollout sampled, over the rollouts that a step trained on.",
        view=TRAINED,
        page="main",
        dashboards=("run", "source"),
    ),
    Metric(
        name="judged_truncated_share",
        title="Truncated",
        unit=Unit.SHARE,
        note="all judged rollouts",
        meaning="Share of the rollouts of judged groups that were cut off at max_tokens.",
        view=JUDGED,
        page="main",
        dashboards=("run", "source"),
    ),
    Metric(
        name="entropy",
        title="Entropy",
        unit=Unit.NATS,
        note="nats per token",
        meaning="Mean entropy of the policy over the trained tokens of the source, as the learner weighs them.",
        view=TRAINED,
        page="main",
        dashboards=("run", "source"),
    ),
    Metric(
        name="zero_variance_share",
        title="Zero variance",
        unit=Unit.SHARE,
        note="share of judged groups",
        meaning="Share of whole judged groups whose rewards are all equal, whatever they are: nothing to learn.",
        view=JUDGED,
        page="main",
        dashboards=("run", "source"),
    ),
    Metric(
        name="mean_age",
        title="Age",
        unit=Unit.VERSIONS,
        note="policy versions",
        meaning="Mean policy versions between generation and training, over the rollouts that a step trained on.",
        view=TRAINED,
        page="main",
        dashboards=("run", "source"),
    ),
    Metric(
        name="coverage",
        title="Coverage",
        unit=Unit.SHARE,
        note="judged rollouts with a reward",
        meaning="Share of the rollouts of judged groups that have a reward. The others timed out, failed or cannot be"
        " scored; they are left out of every mean and never count as wrong.",
        view=JUDGED,
        page="main",
        dashboards=("run", "source"),
    ),
    Metric(
        name="reflection_share",
        title="Reflection",
        unit=Unit.SHARE,
        note="share with a reflection word",
        meaning="Share of the rollouts that a step trained on with a word such as wait, verify or re-check.",
        view=TRAINED,
        page="main",
        dashboards=("source",),
    ),
)
"""What is looked at first."""


def _more(
    name: str, title: str, unit: Unit, meaning: str, note: str = "", *, view: str = TRAINED, is_on_page: bool = True
) -> Metric:
    return Metric(
        name=name,
        title=title,
        unit=unit,
        note=note,
        meaning=meaning,
        view=view,
        page="more" if is_on_page else "",
        dashboards=("source",),
    )


MORE_METRICS = (
    _more("num_judged", "Judged rollouts", Unit.ROLLOUTS, "Rollouts of judged groups that have a reward.",
          "per step", view=JUDGED),
    _more("truncated_share", "Truncated, trained only", Unit.SHARE,
          "Share of the rollouts that a step trained on that were cut off at max_tokens."),
    _more("share_correct", "Correct", Unit.SHARE,
          "Share of the rollouts that a step trained on whose metric is at least what the run file calls correct for"
          " the source.", "by the source's measure"),
    _more("mean_group_variance", "Group variance", Unit.SCORE,
          "Mean sample variance of the final rewards within a group that a step trained on.", "of the reward"),
    _more("advantage_deviation", "Spread of advantages", Unit.SCORE,
          "Sample standard deviation of the advantages of the rollouts that a step trained on.", "standard deviation"),
    _more("clip_fraction", "Clipped", Unit.SHARE,
          "Share of the trained tokens of the source whose ratio was clipped.", "share of tokens"),
    _more("kl", "KL", Unit.NATS,
          "Mean divergence from the policy that sampled, over the trained tokens of the source.",
          "to the sampling policy"),
    _more("num_rollouts", "Trained rollouts", Unit.ROLLOUTS, "Rollouts of the source that a step trained on.",
          "per step"),
    _more("num_unscored", "Trained without a metric", Unit.ROLLOUTS,
          "Rollouts that a step trained on for which no verifier said the source's metric.", "per step"),
    _more("cost_seconds", "Cost", Unit.SECONDS,
          "Wall seconds of the step, its waiting included, times the source's share of the trained tokens. The costs of"
          " all sources add up to the wall time.", "seconds of a step"),
    _more("mean_prompt_length", "Prompt length", Unit.TOKENS,
          "Mean tokens of the prompts, images included, over the rollouts that a step trained on.", "tokens"),
    _more("mean_correct_length", "Length if correct", Unit.TOKENS,
          "Mean tokens of the correct ones among the rollouts that a step trained on.", "tokens"),
    _more("mean_wrong_length", "Length if wrong", Unit.TOKENS,
          "Mean tokens of the wrong ones among the rollouts that a step trained on.", "tokens"),
    _more("correct_truncated_share", "Truncated if correct", Unit.SHARE,
          "Share that was cut off at max_tokens of the correct ones among the rollouts that a step trained on."),
    _more("wrong_truncated_share", "Truncated if wrong", Unit.SHARE,
          "Share that was cut off at max_tokens of the wrong ones among the rollouts that a step trained on."),
    _more("correct_reflection_share", "Reflection if correct", Unit.SHARE,
          "Share with a reflection word of the correct ones among the rollouts that a step trained on."),
    _more("wrong_reflection_share", "Reflection if wrong", Unit.SHARE,
          "Share with a reflection word of the wrong ones among the rollouts that a step trained on."),
    _more("reflection_correct_share", "Correct if reflecting", Unit.SHARE,
          "Share of correct ones among the rollouts with a reflection word that a step trained on."),
    _more("no_reflection_correct_share", "Correct without reflection", Unit.SHARE,
          "Share of correct ones among the rollouts without a reflection word that a step trained on."),
)  # fmt: skip
"""What explains it."""

FURTHER_METRICS = (
    _more("max_age", "Largest age", Unit.VERSIONS,
          "Most policy versions between generation and training, over the rollouts that a step trained on.",
          "policy versions", is_on_page=False),
    _more("num_tokens", "Trained tokens", Unit.TOKENS, "Sampled tokens of the rollouts that a step trained on.",
          "per step", is_on_page=False),
)  # fmt: skip
"""What Grafana shows beside."""

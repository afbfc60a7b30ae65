"""The metrics of a source that become curves: the one list behind the live page, the report and Grafana."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceMetric:
    """One column of a view with a row a source and step."""

    name: str
    """The column."""
    title: str
    note: str = ""
    """What the number is, in a few words."""
    description: str = ""
    """What is shown and what to look for, in a sentence."""
    is_share: bool = False
    """Whether it is between 0 and 1 and shown in percent."""
    view: str = "source_steps"

    def to_panel(self) -> dict[str, Any]:
        """What the page needs to draw it, as JSON values."""
        return {"key": self.name, "title": self.title, "note": self.note, "percent": self.is_share}


MAIN_METRICS = (
    SourceMetric(
        name="judged_reward",
        title="Reward",
        note="all judged rollouts",
        description="Mean final reward of all judged rollouts, in groups that were trained and in dropped ones.",
        view="source_groups",
    ),
    SourceMetric(
        name="mean_reward",
        title="Reward, trained only",
        note="without dropped groups",
        description="Mean final reward of the rollouts that a step trained on: groups without variance are not in it.",
    ),
    SourceMetric(
        name="solve_all_share",
        title="Solved by all",
        note="share of judged groups",
        description="Share of judged groups whose answers all have the full reward: too easy to teach anything.",
        is_share=True,
        view="source_groups",
    ),
    SourceMetric(
        name="solve_none_share",
        title="Solved by none",
        note="share of judged groups",
        description="Share of judged groups whose answers have no reward at all: too hard to teach anything.",
        is_share=True,
        view="source_groups",
    ),
    SourceMetric(
        name="mean_metric",
        title="Metric",
        note="trained rollouts",
        description="The metric that evaluation reports, over the rollouts that a step trained on.",
    ),
    SourceMetric(
        name="mean_length",
        title="Length",
        note="tokens, trained rollouts",
        description="Mean tokens that a rollout of a step sampled.",
    ),
    SourceMetric(
        name="judged_truncated_share",
        title="Truncated",
        note="all judged rollouts",
        description="Share of the rollouts of judged groups that were cut off at max_tokens.",
        is_share=True,
        view="source_groups",
    ),
    SourceMetric(
        name="entropy",
        title="Entropy",
        note="nats per token",
        description="Mean entropy of the policy, nats a token.",
    ),
    SourceMetric(
        name="zero_variance_share",
        title="Zero variance",
        note="share of judged groups",
        description="Share of judged groups whose rewards are all equal, whatever they are: nothing to learn.",
        is_share=True,
        view="source_groups",
    ),
    SourceMetric(
        name="mean_age",
        title="Age",
        note="policy versions",
        description="Mean policy versions between generation and training.",
    ),
    SourceMetric(
        name="reflection_share",
        title="Reflection",
        note="share with a reflection word",
        description="Share of rollouts with a word such as wait, verify or re-check.",
        is_share=True,
    ),
)
"""What is looked at first."""

MORE_METRICS = (
    SourceMetric(name="num_judged", title="Judged rollouts", note="per step", view="source_groups"),
    SourceMetric(name="truncated_share", title="Truncated, trained only", is_share=True),
    SourceMetric(name="share_correct", title="Correct", note="metric at least 0.5", is_share=True),
    SourceMetric(name="mean_group_variance", title="Group variance", note="of the reward"),
    SourceMetric(name="clip_fraction", title="Clipped", note="share of tokens", is_share=True),
    SourceMetric(name="kl", title="KL", note="to the sampling policy"),
    SourceMetric(name="num_rollouts", title="Trained rollouts", note="per step"),
    SourceMetric(name="mean_correct_length", title="Length if correct", note="tokens"),
    SourceMetric(name="mean_wrong_length", title="Length if wrong", note="tokens"),
    SourceMetric(name="correct_truncated_share", title="Truncated if correct", is_share=True),
    SourceMetric(name="wrong_truncated_share", title="Truncated if wrong", is_share=True),
    SourceMetric(name="correct_reflection_share", title="Reflection if correct", is_share=True),
    SourceMetric(name="wrong_reflection_share", title="Reflection if wrong", is_share=True),
    SourceMetric(name="reflection_correct_share", title="Correct if reflecting", is_share=True),
    SourceMetric(name="no_reflection_correct_share", title="Correct without reflection", is_share=True),
)

SOURCE_METRICS = (*MAIN_METRICS, *MORE_METRICS)

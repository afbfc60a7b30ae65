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
        name="mean_reward",
        title="Reward",
        note="mean final reward",
        description="Mean final reward of the rollouts of a step.",
    ),
    SourceMetric(
        name="mean_metric",
        title="Metric",
        note="what evaluation reports",
        description="The metric that the run file names, in training.",
    ),
    SourceMetric(
        name="mean_length", title="Length", note="tokens", description="Mean tokens that a rollout of a step sampled."
    ),
    SourceMetric(
        name="truncated_share",
        title="Truncated",
        note="share of rollouts",
        description="Share of rollouts that ended at max_tokens.",
        is_share=True,
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
        note="share of groups",
        description="Share of judged groups whose rewards are all equal: too easy or too hard, nothing to learn.",
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
    SourceMetric(name="share_correct", title="Correct", note="metric at least 0.5", is_share=True),
    SourceMetric(name="mean_group_variance", title="Group variance", note="of the reward"),
    SourceMetric(name="clip_fraction", title="Clipped", note="share of tokens", is_share=True),
    SourceMetric(name="kl", title="KL", note="to the sampling policy"),
    SourceMetric(name="num_rollouts", title="Rollouts", note="per step"),
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

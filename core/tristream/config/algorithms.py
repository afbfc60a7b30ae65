"""``[learner.algorithm]``: what turns rewards into an update.

``type`` names a preset, and every part of a preset can be set beside it.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from tristream.config.base import Section
from tristream.config.presets import PRESETS


class AlgorithmSection(Section):
    """What turns rewards into an update; defaults are those of ``vtriune``, other types have others."""

    type: Literal["vtriune", "grpo", "dapo", "dr_grpo", "gspo", "cispo"] = "vtriune"
    """Which algorithm: a preset of all that follows."""
    advantage: Literal["group_std", "group_mean", "leave_one_out", "batch_std"] = "group_std"
    """Reward minus the group's mean, divided by the group's deviation; the same undivided; reward minus the mean of the
    others; or reward minus the group's mean, divided by the batch's deviation."""
    advantage_epsilon: float = Field(default=1e-6, ge=0)
    """Added to the deviation that advantages are divided by."""
    ratio: Literal["token", "sequence"] = "token"
    """Ratio of new to old policy of each token, or of a whole answer: the geometric mean of those of its tokens."""
    loss: Literal["clipped", "cispo"] = "clipped"
    """Clipped ratio times advantage, or log-probability weighted by the clipped ratio."""
    clip_low: float = Field(default=0.2, gt=0, le=1)
    """The ratio is clipped below 1 minus this; 1 sets no bound."""
    clip_high: float = Field(default=0.28, gt=0)
    """The ratio is clipped above 1 plus this."""
    dual_clip: float = Field(default=0.0, ge=0)
    """Where the advantage is negative, the loss is at most this times the advantage's size; 0 sets no bound."""
    ratio_bound: float = Field(default=0.0, ge=0)
    """Largest ratio, where the clip range leaves it; 0 sets no bound."""
    aggregation: Literal["token_mean", "sequence_mean", "fixed_length"] = "token_mean"
    """Mean over the batch's tokens, mean over answers of the mean over their tokens, or sum divided by the number of
    answers and the longest possible answer."""
    kl_coefficient: float = Field(default=0.0, ge=0)
    """Weight of the KL divergence from a reference model in the loss; 0 needs no such model."""
    kl_estimator: Literal["k1", "k2", "k3"] = "k3"
    """How that divergence is estimated at the sampled tokens."""
    reference: Path | None = None
    """Checkpoint folder of the reference model; the run's own model as it was before training if left out."""
    proximal: Literal["sampled", "recomputed"] = "sampled"
    """The old policy of the ratio: the one that sampled, or the learner's own before the first update of the batch."""
    importance: Literal["none", "truncate", "mask"] = "none"
    """The weight by which the loss is corrected for what another policy than the recomputed one sampled: there is none,
    it is cut to its bounds, or it is 0 outside of them."""
    importance_level: Literal["token", "sequence", "geometric"] = "token"
    """Weight of each token, of a whole answer, or the geometric mean of its tokens' weights."""
    importance_low: float = Field(default=0.0, ge=0)
    """Lower bound of the weight."""
    importance_high: float = Field(default=2.0, gt=0)
    """Upper bound of the weight."""
    overlong: Literal["keep", "mask"] = "keep"
    """Whether answers that were cut off are trained on."""
    overlong_penalty: float = Field(default=0.0, ge=0)
    """Taken off the reward of an answer of the greatest length, for advantages only."""
    overlong_share: float = Field(default=0.2, gt=0, le=1)
    """The penalty grows from 0 over this share of the longest answer, at its end."""
    max_tokens: int = Field(default=0, ge=0)
    """Longest answer, for ``fixed_length`` and the penalty; 0 takes ``rollout.max_tokens``."""
    updates_per_batch: int = Field(default=1, ge=1)
    """Optimizer steps over one batch, each on other groups of it."""
    epochs: int = Field(default=1, ge=1)
    """Times that a batch is gone through."""

    @model_validator(mode="before")
    @classmethod
    def _begin_with_the_preset(cls, values: Any) -> Any:  # noqa: ANN401 - pydantic gives what it was given
        if not isinstance(values, Mapping):
            return values
        preset = PRESETS.get(str(values.get("type", "vtriune")))
        return values if preset is None else {**preset.parameters, **values}

    @model_validator(mode="after")
    def _parts_fit(self) -> Self:
        if self.importance != "none" and self.proximal != "recomputed":
            raise ValueError("importance weights need proximal = 'recomputed': beside 'sampled' they are all 1")
        if self.importance_low > self.importance_high:
            raise ValueError("importance_low is above importance_high")
        for name in ("dual_clip", "ratio_bound"):
            if 0 < getattr(self, name) <= 1 + self.clip_high:
                raise ValueError(f"{name} must be 0 or above 1 + clip_high")
        return self

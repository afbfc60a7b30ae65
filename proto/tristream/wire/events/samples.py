"""What a sample is: its messages, its images, and its own definition of reward."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from tristream.wire import identities

IMAGE_MARKER = "<image>"
"""Stands in the content of a message for the next image of the sample."""


class Split(StrEnum):
    """Which data a sample belongs to."""

    TRAIN = "train"
    EVAL = "eval"


class Combine(StrEnum):
    """How component rewards become one final reward."""

    MEAN = "mean"
    """sum(weight * component) / sum(|weight|)."""
    SUM = "sum"
    """sum(weight * component)."""


class OnUnscored(StrEnum):
    """What a rollout without a complete reward means for its group."""

    LEAVE_OUT = "leave_out"
    DROP_GROUP = "drop_group"
    ZERO = "zero"


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One chat message; each ``<image>`` in the content stands for the next image."""

    role: str
    content: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """An encoded image, inline (``data``) or by reference (``uri``)."""

    media_type: str
    sha256: str
    size_bytes: int
    data: bytes = b""
    uri: str = ""


class TermMode(StrEnum):
    """What the scores of a reward term are used for."""

    ACTIVE = "active"
    """They count in the final reward."""
    SHADOW = "shadow"
    """They are kept, count for nothing, and are never waited for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RewardTerm:
    """One verifier version that a sample asks for, and what its components are worth."""

    id: str
    """Unique in the sample: one verifier may be asked twice, with other parameters."""
    verifier: str
    version: str
    """Pinned when the group is dispatched, so that no group mixes two versions."""
    weights: Mapping[str, float]
    params_json: str = "{}"
    mode: TermMode = TermMode.ACTIVE

    @property
    def counts(self) -> bool:
        """Whether the final reward needs its scores."""
        return self.mode is TermMode.ACTIVE and any(weight != 0 for weight in self.weights.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class RewardSpec:
    """A sample's own definition of reward."""

    terms: tuple[RewardTerm, ...]
    ground_truth: str
    columns_json: str = "{}"
    """Further columns of the row that verifiers may read, a JSON object."""
    combine: Combine = Combine.MEAN
    on_unscored: OnUnscored = OnUnscored.LEAVE_OUT


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """Where the run stood when a prompt was dispatched."""

    step: int
    total_steps: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Identity of the G rollouts of one prompt, and where the prompt comes from."""

    run: str
    split: Split
    number: int
    """Dense number of the prompt in its split (and in its round, for evaluation)."""
    source: str
    sample_id: str
    size: int
    eval_step: int = 0
    """Training step whose weights are evaluated; 0 for training prompts."""
    eval_attempt: int = 0
    """Which evaluation of this version it is: a version that is trained anew is evaluated anew."""

    @property
    def id(self) -> str:
        """``run/n`` for training, ``run/eval-STEP/n`` or ``run/eval-STEP.ATTEMPT/n`` for evaluation."""
        if self.split is Split.TRAIN:
            return identities.training_group_id(self.run, self.number)
        return identities.evaluation_group_id(self.run, self.eval_step, self.eval_attempt, self.number)

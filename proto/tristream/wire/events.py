"""The events of a run as frozen dataclasses: what every part talks about.

Protobuf never leaves ``tristream.wire.codecs``; domain code handles these values. Times are
nanoseconds since the epoch, durations seconds, log-probabilities nats. Token ids and
log-probabilities are tuples, so that events compare and hash like the facts they are.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from tristream.wire import identities


class Split(StrEnum):
    """Which data a sample belongs to."""

    TRAIN = "train"
    EVAL = "eval"


class Combine(StrEnum):
    """How component rewards become one final reward."""

    MEAN = "mean"
    """sum(weight * component) / sum(weight)."""
    SUM = "sum"
    """sum(weight * component)."""


class OnUnscored(StrEnum):
    """What a rollout without a complete reward means for its group."""

    LEAVE_OUT = "leave_out"
    DROP_GROUP = "drop_group"
    ZERO = "zero"


class FinishReason(StrEnum):
    """Why a completion ended."""

    STOP = "stop"
    LENGTH = "length"
    ERROR = "error"


class Status(StrEnum):
    """What came of judging a rollout; only SCORED is a number."""

    SCORED = "scored"
    UNSCORABLE = "unscorable"
    TIMEOUT = "timeout"
    ERROR = "error"


class Fate(StrEnum):
    """What became of a group."""

    TRAINED = "trained"
    DROPPED = "dropped"
    EVALUATED = "evaluated"


class Mode(StrEnum):
    """What a verifier's scores are used for."""

    SHADOW = "shadow"
    ACTIVE = "active"
    RETIRED = "retired"


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


@dataclass(frozen=True, slots=True, kw_only=True)
class RewardTerm:
    """One verifier that a sample asks for, and what its components are worth."""

    verifier: str
    weights: Mapping[str, float]
    params_json: str = "{}"


@dataclass(frozen=True, slots=True, kw_only=True)
class RewardSpec:
    """A sample's own definition of reward."""

    terms: tuple[RewardTerm, ...]
    ground_truth: str
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

    @property
    def id(self) -> str:
        """``run/n`` for training, ``run/eval-STEP/n`` for evaluation."""
        if self.split is Split.TRAIN:
            return identities.training_group_id(self.run, self.number)
        return identities.evaluation_group_id(self.run, self.eval_step, self.number)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How completions are sampled; temperature 0 is greedy."""

    temperature: float
    top_p: float
    max_tokens: int
    seed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Weights:
    """Where the weights of one policy version are."""

    version: int
    uri: str
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """Work for a producer: one prompt and how to answer it."""

    group: Group
    messages: tuple[Message, ...]
    images: tuple[Image, ...]
    reward: RewardSpec
    sampling: Sampling
    progress: Progress
    pinned_weights: Weights | None = None
    """Weights that must be used (evaluation); None means the newest."""
    created_ns: int


@dataclass(frozen=True, slots=True, kw_only=True)
class VersionSpan:
    """Completion tokens ``start`` to ``end`` (exclusive) were sampled by ``version``."""

    version: int
    start: int
    end: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Rollout:
    """One sampled answer with all that verifiers and the learner need."""

    group: Group
    index: int
    prompt_tokens: tuple[int, ...]
    """Prompt token ids with image placeholders expanded."""
    completion_tokens: tuple[int, ...]
    logprobs: tuple[float, ...]
    """Log-probability of each completion token under the sampling distribution (float32)."""
    version_spans: tuple[VersionSpan, ...]
    text: str
    finish_reason: FinishReason
    images: tuple[Image, ...]
    prompt_text: str
    reward: RewardSpec
    progress: Progress
    temperature: float
    queued_seconds: float
    generate_seconds: float
    producer: str
    created_ns: int

    @property
    def id(self) -> str:
        """``GROUP/index``."""
        return identities.rollout_id(self.group.id, self.index)

    @property
    def oldest_version(self) -> int:
        """Oldest policy version among the tokens; -1 for an empty completion."""
        return min((span.version for span in self.version_spans), default=-1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reward:
    """What one verifier says of one rollout."""

    group: Group
    index: int
    verifier: str
    version: str
    status: Status
    detail: str = ""
    components: Mapping[str, float] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    params_json: str = "{}"
    queued_seconds: float
    score_seconds: float
    created_ns: int

    @property
    def id(self) -> str:
        """``ROLLOUT|verifier|version``."""
        rollout_id = identities.rollout_id(self.group.id, self.index)
        return identities.reward_id(rollout_id, self.verifier, self.version)


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutOutcome:
    """What one rollout of a group was worth."""

    index: int
    valid: bool
    reward: float
    advantage: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of a group; each group has exactly one outcome in the end."""

    group: Group
    fate: Fate
    step: int = 0
    """Training step that used it, for TRAINED."""
    reason: str = ""
    """Why, for DROPPED."""
    rollouts: tuple[RolloutOutcome, ...] = ()
    oldest_version: int = -1
    created_ns: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """Group numbers ``start`` to ``end`` (exclusive)."""

    start: int
    end: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyVersion:
    """The learner reached a version; also which groups its durable checkpoint settles."""

    run: str
    weights: Weights
    total_steps: int
    settled: tuple[Interval, ...]
    dropped: tuple[Interval, ...]
    """Those of the settled groups that were dropped; admission does not count them."""
    created_ns: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutStatistics:
    """Training statistics of one rollout, means over its completion tokens."""

    group_number: int
    index: int
    mean_logprob: float
    mean_entropy: float
    clip_fraction: float
    mean_kl: float


@dataclass(frozen=True, slots=True, kw_only=True)
class StepReport:
    """What one optimizer step did."""

    run: str
    step: int
    total_steps: int
    metrics: Mapping[str, float]
    layer_grad_norms: Mapping[str, float]
    phase_seconds: Mapping[str, float]
    rollouts: tuple[RolloutStatistics, ...]
    num_completion_tokens: int
    num_groups: int
    max_age: int
    created_ns: int


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifierState:
    """One verifier as it stands."""

    run: str
    verifier: str
    version: str
    mode: Mode
    sources: tuple[str, ...] = ()
    num_scored: int
    num_restarts: int
    heartbeat_ns: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetter:
    """A record that could not be handled, as it was, and why."""

    run: str
    topic: str
    partition: int
    offset: int
    key: bytes
    value: bytes
    headers: Mapping[str, bytes]
    error: str
    part: str
    created_ns: int


Event = Prompt | Rollout | Reward | Outcome | PolicyVersion | StepReport | VerifierState | DeadLetter

"""What is known of the steps around one: their groups, answers and verdicts, as they are read."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

AnswerKey = tuple[int, int]
"""Number of the group, index of the rollout."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What one verifier version said of an answer."""

    term_id: str
    verifier: str
    version: str
    status: str
    components: Mapping[str, float]
    metrics: Mapping[str, float]
    threshold: float | None
    """The IoU threshold at which it scored, where it has one."""
    ratios: Mapping[str, float]
    """How detection weighs its parts; empty where it has none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """One rollout of a window."""

    number: int
    index: int
    step: int
    is_after: bool
    source: str
    reward: float | None
    """Final reward; None if it has none and is left out."""
    age: int
    """Policy versions between its oldest token and the policy that its step trained; 0 if nothing was sampled."""
    finish_reason: str
    num_tokens: int
    num_prompt_tokens: int
    producer: str
    versions: Mapping[str, str]
    """Version that each term pinned, by id."""
    weights: Mapping[str, float]
    """Weight by ``term_id.component``, of the terms that count."""
    combine: str
    on_unscored: str
    verdicts: Sequence[Verdict]

    @property
    def key(self) -> AnswerKey:
        """Its group's number and its index."""
        return self.number, self.index

    @property
    def has_failed(self) -> bool:
        """Whether generation failed, so that there is no answer."""
        return self.finish_reason == "error"

    @property
    def is_truncated(self) -> bool:
        """Whether it was cut off at ``max_tokens``."""
        return self.finish_reason == "length"

    @property
    def counted_verdicts(self) -> Sequence[Verdict]:
        """Those of the versions that count in its reward."""
        counting = {name.rpartition(".")[0] for name in self.weights}
        return [
            verdict
            for verdict in self.verdicts
            if verdict.term_id in counting and self.versions.get(verdict.term_id) == verdict.version
        ]

    @property
    def counts_unscored(self) -> bool:
        """Whether a verdict that counts is no score, and yet there is a reward: it counts as a wrong answer."""
        return self.reward is not None and any(verdict.status != "scored" for verdict in self.counted_verdicts)


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """One settled training group, with the step for which it counts."""

    number: int
    step: int
    source: str
    sample_id: str
    truth: int
    """Hash of the ground truth."""
    max_tokens: int
    fingerprint: str
    fate: str
    reason: str
    rewards: Sequence[float]
    """Of its valid rollouts."""
    num_rollouts: int

    @property
    def mean(self) -> float:
        """Mean reward of its valid rollouts, of which there must be one."""
        return sum(self.rewards) / len(self.rewards)


@dataclass(frozen=True, slots=True, kw_only=True)
class StepFacts:
    """What the learner reported of a step."""

    step: int
    metrics: Mapping[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """The steps that are compared: those before one, and it with those after it."""

    step: int
    first: int
    """First step before."""
    last: int
    """Last step after."""

    def holds(self, step: int) -> bool:
        """Whether a step is in one of the two halves."""
        return self.first <= step <= self.last

    def is_after(self, step: int) -> bool:
        """Whether a step is the one that is asked about, or a later one."""
        return step >= self.step


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """A change that somebody, or the run itself, commanded."""

    step: int
    text: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """All that is read of a run around a step."""

    window: Window
    steps: Sequence[StepFacts]
    """Of the window and of some steps before it, in order."""
    groups: Sequence[Group]
    """The same; those of the window and those before it."""
    answers: Sequence[Answer]
    """Of the window's groups."""
    first_seen: Mapping[tuple[str, str], int] = field(default_factory=dict)
    """By source and sample of the window: number of its first group in the whole run."""
    marks: Sequence[Mark] = ()
    share_read: float = 1.0
    """Share of the window's groups whose answers were read."""
    held_out: Mapping[str, Mapping[str, float | int | str | None]] = field(default_factory=dict)
    """By source: metric, value and standard error before and after, of the rounds around the step."""

"""Outcomes: what became of each group."""

from dataclasses import dataclass
from enum import StrEnum

from tristream.wire.events.samples import Group


class Fate(StrEnum):
    """What became of a group."""

    TRAINED = "trained"
    DROPPED = "dropped"
    EVALUATED = "evaluated"


class DropReason(StrEnum):
    """Why a group was dropped."""

    ZERO_VARIANCE = "zero_variance"
    """All its rewards are equal, so it teaches nothing."""
    STALE = "stale"
    """A rollout is older than the staleness bound allows."""
    TOO_FEW_VALID = "too_few_valid"
    """Fewer than two rollouts have a complete reward."""
    UNSCORED = "unscored"
    """A score is missing, and the sample asks to drop the group then."""
    INCOMPLETE = "incomplete"
    """Rollouts or rewards did not come in time."""
    CONFLICTING = "conflicting"
    """Two different prompts were dispatched under its number."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutOutcome:
    """What one rollout of a group was worth."""

    index: int
    valid: bool
    """Whether it has a complete reward."""
    reward: float
    """Final reward; 0 if not valid."""
    advantage: float = 0.0
    """0 if not trained."""
    age: int = 0
    """Trained version minus the oldest version of its tokens; 0 if not trained."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of a group; each group has exactly one outcome in the end."""

    group: Group
    fate: Fate
    step: int = 0
    """Training step that used it, for TRAINED; the evaluated step, for EVALUATED."""
    drop_reason: DropReason | None = None
    """Why, for DROPPED."""
    rollouts: tuple[RolloutOutcome, ...] = ()
    oldest_version: int = -1
    """Oldest policy version among its rollouts; -1 if nothing was sampled."""
    has_zero_variance: bool = False
    """Whether the rewards of its valid rollouts, two or more, are all equal."""
    created_ns: int

    @property
    def max_age(self) -> int:
        """Largest age of a rollout that was trained."""
        return max((rollout.age for rollout in self.rollouts), default=0)

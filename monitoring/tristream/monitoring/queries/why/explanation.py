"""What ``why`` answers."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

QUIET = "nothing stands out"


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """The training reward before and after: the mean over all judged rollouts, trained and dropped."""

    before: float
    after: float
    delta: float
    error: float
    """Standard error of the difference."""
    steps_before: tuple[int, int]
    """First and last."""
    steps_after: tuple[int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Cause:
    """One cause, what it did to the training reward, and what shows it."""

    kind: str
    source: str
    """Empty for what concerns the whole run."""
    title: str
    share: float
    """``|delta|`` by the sum of that over all causes, what is left for the policy included: causes may cancel."""
    delta: float
    error: float
    """Standard error of ``delta``."""
    stands_out: bool
    detail: str
    evidence: Sequence[str] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """What changed around a step, ranked: what stands out first, by what it did."""

    run: str
    step: int
    source: str
    change: Change
    causes: Sequence[Cause]
    verdict: str
    held_out: Mapping[str, Mapping[str, float | int | str | None]] = field(default_factory=dict)
    pairs: Sequence[Mapping[str, Any]] = ()
    commands: Sequence[str] = ()
    notes: Sequence[str] = ()

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)

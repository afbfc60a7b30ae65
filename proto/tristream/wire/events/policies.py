"""Policy versions: where new weights are, and which groups the learner has settled."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Weights:
    """Where the weights of one policy version are."""

    version: int
    uri: str
    sha256: str


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

"""What a pool is asked, and what it answers."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from tristream.verifiers.contract import Rollout
from tristream.verifiers.definition import Limits, Need, Range, Scope
from tristream.wire.events import Status


class PoolError(Exception):
    """The pool has ended, or cannot run at all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """Rollouts for one verifier."""

    verifier: str
    """``NAME@VERSION``, as the pool serves it."""
    rollouts: tuple[Rollout, ...]
    """One; all of the group, in order, for a verifier of scope ``group``. Their ``truth`` is filled in by the child."""
    params_json: str = "{}"
    """The parameters as the term has them; whether they are a usable JSON object is found out by the child."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """What a verifier says of one rollout: plain, checked values."""

    components: Mapping[str, float] = field(default_factory=dict)
    """Values by name, each finite and within its declared range; without those that abstained."""
    abstained: tuple[str, ...] = ()
    """Declared components without an opinion."""
    metrics: Mapping[str, float] = field(default_factory=dict)
    """Finite numbers."""
    params_json: str = "{}"
    """Parameters as they were resolved, a JSON object."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What came of a task; there is exactly one for each."""

    status: Status
    detail: str = ""
    """Why there is no score; at most 1000 characters."""
    judgements: tuple[Judgement, ...] = ()
    """One for each rollout of the task, in order, if SCORED; else none."""
    is_truth_fine: bool = False
    """Whether the truth was parsed before the verifier was called, so that a TIMEOUT is the answer's doing."""
    cpu_seconds: float = 0.0
    """CPU time that the call used, as far as it is known; 0 for async verifiers."""
    wall_seconds: float = 0.0
    """Time from the start of the call to its verdict; time in which it stood aside does not count."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifierFacts:
    """What a child tells of a verifier; the parent itself never imports code of a plug-in."""

    name: str
    version: str
    components: Mapping[str, Range]
    scope: Scope
    is_async: bool
    needs: frozenset[Need]
    limits: Limits
    """As declared, with the pool's own limits laid over."""

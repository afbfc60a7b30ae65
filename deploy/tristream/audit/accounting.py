"""The audit: each dispatched training group has exactly one outcome, and the checkpoint agrees with the log.

Pure functions over facts; where the facts come from is the caller's business. Groups without an
outcome are pending: allowed while a run is open, a violation once it is finished.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field

from tristream.wire.events import DropReason, Fate
from tristream.wire.ledger import IntervalSet


@dataclass(frozen=True, slots=True, kw_only=True)
class OutcomeFact:
    """One distinct outcome on the log."""

    number: int
    fate: Fate
    step: int = 0
    """Step that trained the group; 0 for others."""
    reason: DropReason | None = None
    """Why it was dropped; None for others."""

    def __str__(self) -> str:
        return f"trained at step {self.step}" if self.fate is Fate.TRAINED else f"dropped as {self.reason}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """What became of all groups, and what is wrong about it."""

    num_dispatched: int
    num_trained: int
    num_pending: int
    num_dropped_by_reason: dict[DropReason, int] = field(default_factory=dict)
    violations: tuple[str, ...] = ()

    @property
    def balances(self) -> bool:
        """Whether every group is accounted for."""
        return not self.violations


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointFacts:
    """What the newest checkpoint says of groups."""

    settled: IntervalSet
    """Numbers of the groups that are trained or dropped."""
    dropped: IntervalSet = field(default_factory=IntervalSet)
    """Those of them that were dropped."""
    pending: IntervalSet = field(default_factory=IntervalSet)
    """Those of them whose outcomes were not acknowledged when it was written; a resumed learner repeats them."""


def settle_account(
    dispatched: Iterable[int], outcomes: Iterable[OutcomeFact], checkpoint: CheckpointFacts | None, *, is_finished: bool
) -> Account:
    """Balance dispatched groups against their outcomes and against the ledger of the newest checkpoint.

    Args:
        dispatched: numbers of the training groups on the log; repeats are redeliveries.
        outcomes: outcomes on the log; equal ones are redeliveries.
        checkpoint: what the newest checkpoint says; None if there is no checkpoint.
        is_finished: whether the run is complete, so that nothing may be pending.
    """
    numbers = set(dispatched)
    by_number: dict[int, set[OutcomeFact]] = defaultdict(set)
    for fact in outcomes:
        by_number[fact.number].add(fact)
    single = {number: next(iter(facts)) for number, facts in by_number.items() if len(facts) == 1}
    pending = sorted(numbers - set(by_number))
    trained = {number for number, fact in single.items() if fact.fate is Fate.TRAINED}
    dropped = {number: fact.reason for number, fact in single.items() if fact.fate is Fate.DROPPED}
    reasons = Counter(reason for reason in dropped.values() if reason is not None)
    return Account(
        num_dispatched=len(numbers),
        num_trained=len(trained),
        num_pending=len(pending),
        num_dropped_by_reason=dict(sorted(reasons.items())),
        violations=(
            *_contradictions(by_number),
            *_name("has an outcome and was never dispatched", sorted(set(by_number) - numbers)),
            *_name("was skipped: numbers are dense", _gaps(numbers)),
            *_checkpoint_violations(checkpoint, set(by_number), trained, set(dropped)),
            *(_name("is finished without an outcome", pending) if is_finished else ()),
        ),
    )


def _contradictions(by_number: dict[int, set[OutcomeFact]]) -> list[str]:
    return [
        f"group {number} has {len(facts)} outcomes: {', '.join(sorted(map(str, facts)))}"
        for number, facts in sorted(by_number.items())
        if len(facts) > 1
    ]


def _gaps(numbers: set[int]) -> list[int]:
    return sorted(set(range(max(numbers, default=-1) + 1)) - numbers)


def _checkpoint_violations(
    checkpoint: CheckpointFacts | None, known: set[int], trained: set[int], dropped: set[int]
) -> list[str]:
    if checkpoint is None:
        return _name("was trained and there is no checkpoint", sorted(trained))
    silent = [n for n in checkpoint.settled if n not in known and n not in checkpoint.pending]
    return [
        *_name("is settled in the checkpoint and has no outcome", silent),
        *_name(
            "was trained and the checkpoint does not know it", sorted(n for n in trained if n not in checkpoint.settled)
        ),
        *_name("was trained and the checkpoint says dropped", sorted(n for n in trained if n in checkpoint.dropped)),
        *_name(
            "was dropped and the checkpoint says trained",
            sorted(n for n in dropped if n in checkpoint.settled and n not in checkpoint.dropped),
        ),
    ]


def _name(what: str, numbers: list[int]) -> list[str]:
    return [f"group {number} {what}" for number in numbers]

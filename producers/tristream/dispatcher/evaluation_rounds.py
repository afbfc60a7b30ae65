"""Which evaluation prompts are still to dispatch or to be answered: a pure state machine.

A round is all held-out rows answered by one policy version. The run file says which versions are due. A round that
is on the log is never dispatched again, except for those of its prompts that are missing there.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

from tristream.config.evaluation import EvaluationSection
from tristream.wire.events import Weights
from tristream.wire.ledger import IntervalSet


@dataclass(slots=True)
class _Round:
    weights: Weights
    dispatched: IntervalSet = field(default_factory=IntervalSet)
    answered: IntervalSet = field(default_factory=IntervalSet)


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationWork:
    """One evaluation prompt to dispatch."""

    weights: Weights
    number: int


class EvaluationRounds:
    """Follows the rounds of a run.

    Args:
        evaluation: says which versions are due.
        num_prompts: held-out rows; with none, every round is complete.
        total_steps: the last version.
    """

    def __init__(self, evaluation: EvaluationSection, *, num_prompts: int, total_steps: int) -> None:
        self._evaluation = evaluation
        self._num_prompts = num_prompts
        self._total_steps = total_steps
        self._rounds: dict[int, _Round] = {}

    def observe_version(self, weights: Weights) -> None:
        """The learner announced a version."""
        if self._evaluation.is_due(weights.version, self._total_steps):
            self._rounds.setdefault(weights.version, _Round(weights))

    def observe_dispatched(self, weights: Weights, number: int) -> None:
        """A prompt is on the log; its round goes on with the weights it began with."""
        round_ = self._rounds.setdefault(weights.version, _Round(weights))
        if not round_.dispatched:
            round_.weights = weights
        round_.dispatched.add(number)

    def observe_answered(self, version: int, number: int) -> None:
        """An evaluation prompt has its outcome."""
        if version in self._rounds:
            self._rounds[version].answered.add(number)

    def take_work(self) -> Iterator[EvaluationWork]:
        """The prompts to dispatch, oldest round first; each is given once."""
        for _, round_ in sorted(self._rounds.items()):
            if len(round_.dispatched) == self._num_prompts:
                continue
            for number in range(self._num_prompts):
                if number not in round_.dispatched:
                    round_.dispatched.add(number)
                    yield EvaluationWork(weights=round_.weights, number=number)

    def num_unanswered(self) -> tuple[int, int] | None:
        """Version of the oldest round that misses answers and how many it misses, or None."""
        for version, round_ in sorted(self._rounds.items()):
            missing = self._num_prompts - len(round_.answered)
            if missing > 0:
                return version, missing
        return None

    @property
    def num_answered(self) -> int:
        """Rounds that have all their answers."""
        return sum(len(round_.answered) >= self._num_prompts for round_ in self._rounds.values())

    def is_finished(self) -> bool:
        """Whether the last version was announced and every round has all its answers."""
        return self._total_steps in self._rounds and self.num_unanswered() is None

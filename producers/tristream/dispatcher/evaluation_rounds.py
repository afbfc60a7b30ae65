"""Which evaluation prompts are still to dispatch or to be answered: a pure state machine.

A round is all held-out rows answered by the weights of one version. The run file says which versions are due. A
version that is announced with other weights than those of its newest round was trained anew, and is evaluated anew
under the next attempt; what the earlier attempt still lacks is not dispatched. Rounds that are answered and lie
behind the learner's durable checkpoint, to which no learner goes back, are forgotten.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

from tristream.config.evaluation import EvaluationSection
from tristream.wire.events import EvaluatedRound, PolicyVersion, Weights
from tristream.wire.ledger import IntervalSet


@dataclass(slots=True)
class _Round:
    weights: Weights | None = None
    """None if nothing but answers is known of it: its prompts lie before what is read of the log."""
    is_of_other_weights: bool = False
    """Whether it was answered before the learner, having gone back, came to this version again."""
    dispatched: IntervalSet = field(default_factory=IntervalSet)
    answered: IntervalSet = field(default_factory=IntervalSet)

    @property
    def num_due(self) -> int:
        """Dispatched prompts without an answer."""
        return len(union(self.dispatched, self.answered)) - len(self.answered)

    def can_go_on_with(self, weights: Weights) -> bool:
        """Whether answers of these weights belong to this round."""
        return self.weights.sha256 == weights.sha256 if self.weights else not self.is_of_other_weights


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationWork:
    """One evaluation prompt to dispatch."""

    weights: Weights
    attempt: int
    number: int


class EvaluationRounds:
    """Follows the rounds of a run; tell it all that is on the log before you take work.

    Args:
        evaluation: says which versions are due.
        num_prompts: held-out rows; with none, every round is complete.
        total_steps: the last version.
    """

    def __init__(self, evaluation: EvaluationSection, *, num_prompts: int, total_steps: int) -> None:
        self._evaluation = evaluation
        self._num_prompts = num_prompts
        self._total_steps = total_steps
        self._rounds: dict[int, dict[int, _Round]] = {}
        """By version and attempt."""
        self._announced: dict[int, Weights] = {}
        """Newest weights of each due version that is not forgotten."""
        self._durable_step = 0
        self._first_known = 0
        """All rounds of versions before this one are answered."""

    def observe_policy(self, policy: PolicyVersion) -> None:
        """The learner announced a version; its durable ledger says which rounds are answered already."""
        durable = policy.durable
        self._durable_step = max(self._durable_step, durable.step)
        evaluated = durable.position.evaluated
        if evaluated:
            self._forget_before(min(durable.step, *(round_.eval_step for round_ in evaluated)))
        for round_ in evaluated:
            self._observe_evaluated(round_, durable.step)
        version = policy.weights.version
        if version >= self._first_known and self._evaluation.is_due(version, self._total_steps):
            self._announced[version] = policy.weights

    def observe_dispatched(self, weights: Weights, attempt: int, number: int) -> None:
        """A prompt is on the log."""
        if weights.version >= self._first_known:
            round_ = self._round(weights.version, attempt)
            round_.weights = weights
            round_.dispatched.add(number)

    def observe_answered(self, version: int, attempt: int, number: int) -> None:
        """An evaluation prompt has its outcome."""
        if version >= self._first_known:
            self._round(version, attempt).answered.add(number)

    def take_work(self) -> Iterator[EvaluationWork]:
        """The prompts to dispatch, oldest round first; each is given once."""
        for version in sorted({*self._announced, *self._rounds}) if self._num_prompts else ():
            weights = self._announced.get(version) or self._rounds[version][max(self._rounds[version])].weights
            if weights is None:
                continue
            attempt = self._attempt_of(weights)
            round_ = self._round(version, attempt)
            round_.weights = weights
            for number in range(self._num_prompts) if self._lacks_prompts(round_) else ():
                if number not in round_.dispatched and number not in round_.answered:
                    round_.dispatched.add(number)
                    yield EvaluationWork(weights=weights, attempt=attempt, number=number)

    def num_unanswered(self) -> tuple[int, int] | None:
        """Version of the oldest round that misses answers and how many it misses, or None."""
        missing = ((version, self._num_unanswered(version)) for version in sorted(self._rounds))
        return next((pair for pair in missing if pair[1] > 0), None)

    @property
    def num_answered(self) -> int:
        """Versions whose held-out rows are all answered, by the weights that they were announced with last."""
        num_forgotten = -(-self._first_known // self._evaluation.every)
        known = self._rounds if self._num_prompts else self._announced
        return num_forgotten + sum(self._num_unanswered(version) == 0 for version in known)

    def is_finished(self) -> bool:
        """Whether the last version was announced and every round has all its answers; take all work before."""
        return self._total_steps in self._announced and self.num_unanswered() is None

    def forget_old(self) -> None:
        """Forget the oldest rounds, up to the first that is not answered or not behind the durable checkpoint."""
        for version in sorted({*self._announced, *self._rounds}):
            is_given = version in self._rounds or self._num_prompts == 0
            if version >= min(self._durable_step, self._total_steps) or not is_given or self._num_unanswered(version):
                return
            self._forget_before(version + 1)

    def _forget_before(self, version: int) -> None:
        self._first_known = max(self._first_known, version)
        for old in [known for known in self._rounds if known < self._first_known]:
            del self._rounds[old]
        for old in [known for known in self._announced if known < self._first_known]:
            del self._announced[old]

    def _observe_evaluated(self, evaluated: EvaluatedRound, ledger_step: int) -> None:
        if evaluated.eval_step < self._first_known:
            return
        round_ = self._round(evaluated.eval_step, evaluated.eval_attempt)
        round_.answered = IntervalSet((*round_.answered.intervals, *evaluated.numbers))
        # A ledger is made before the version of its step is announced: what it knows of later ones is of another life.
        if round_.weights is None and evaluated.eval_step >= ledger_step:
            round_.is_of_other_weights = True

    def _round(self, version: int, attempt: int) -> _Round:
        return self._rounds.setdefault(version, {}).setdefault(attempt, _Round())

    def _attempt_of(self, weights: Weights) -> int:
        """The newest attempt of a version if it can go on with these weights, else one more."""
        attempts = self._rounds.get(weights.version)
        if not attempts:
            return 0
        newest = max(attempts)
        return newest if attempts[newest].can_go_on_with(weights) else newest + 1

    def _lacks_prompts(self, round_: _Round) -> bool:
        return len(union(round_.dispatched, round_.answered)) < self._num_prompts

    def _num_unanswered(self, version: int) -> int:
        """Answers that a version still gets: the newest attempt all, an earlier one those of what was dispatched."""
        attempts = self._rounds.get(version)
        if not attempts:
            return 0
        newest = attempts[max(attempts)]
        num_missing = self._num_prompts - len(newest.answered) if newest.weights else newest.num_due
        return max(0, num_missing) + sum(round_.num_due for round_ in attempts.values() if round_ is not newest)


def union(first: IntervalSet, second: IntervalSet) -> IntervalSet:
    """The numbers of either set."""
    return IntervalSet((*first.intervals, *second.intervals))

"""Which answers of the evaluation rounds have their outcome: compact, and bounded however many rounds a run has."""

from collections.abc import Iterable

from tristream.wire.events import EvaluatedRound, Group
from tristream.wire.ledger import IntervalSet

Round = tuple[int, int]
"""Evaluated step and attempt."""

NUM_KEPT_ROUNDS = 64
"""Rounds whose answers are kept one by one; all before them are answered."""


class EvaluationRounds:
    """The evaluation prompts that have their outcome."""

    def __init__(self, evaluated: Iterable[EvaluatedRound] = ()) -> None:
        self._answered: dict[Round, IntervalSet] = {
            (one.eval_step, one.eval_attempt): IntervalSet(one.numbers) for one in evaluated
        }
        self._first: Round = min(self._answered, default=(0, 0))
        """Every round before this one is answered."""

    def add(self, group: Group) -> None:
        """A prompt has its outcome."""
        found = round_of(group)
        if found >= self._first:
            self._answered.setdefault(found, IntervalSet()).add(group.number)

    def __contains__(self, group: Group) -> bool:
        found = round_of(group)
        if found < self._first:
            return True
        return found in self._answered and group.number in self._answered[found]

    def forget_old(self, step: int, open_rounds: Iterable[Round]) -> None:
        """Keep the newest rounds alone, and those that may still get answers.

        Args:
            step: where the learner stands; what comes after it may be evaluated anew.
            open_rounds: rounds with prompts that have no outcome yet.
        """
        oldest_open = min(open_rounds, default=(step, 0))
        closed = sorted(found for found in self._answered if found < min(oldest_open, (step, 0)))
        forgotten = closed[:-NUM_KEPT_ROUNDS]
        for found in forgotten:
            del self._answered[found]
        if forgotten:
            self._first = min(*self._answered, oldest_open)

    def kept(self) -> tuple[EvaluatedRound, ...]:
        """The rounds that are kept; the first one is the one before which everything is answered."""
        if not self._answered:
            return ()
        rounds = {self._first: IntervalSet(), **self._answered}
        return tuple(
            EvaluatedRound(eval_step=step, eval_attempt=attempt, numbers=rounds[step, attempt].intervals)
            for step, attempt in sorted(rounds)
        )


def round_of(group: Group) -> Round:
    """The round of an evaluation prompt."""
    return group.eval_step, group.eval_attempt

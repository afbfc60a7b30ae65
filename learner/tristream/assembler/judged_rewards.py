"""The training reward: the mean over all judged rollouts, of groups that are trained and of those that are dropped."""

from collections.abc import Iterable

from tristream.wire.events import DropReason, Outcome


class JudgedRewards:
    """Mean reward of valid rollouts by source, from one batch to the next.

    What was dropped since the batch before counts with the batch. Drops are those that this assembler decided.
    """

    def __init__(self) -> None:
        self.means: dict[str, float] = {}
        """By source, of the newest batch and what was dropped since the one before; a source of which nothing was
        judged in that time keeps its mean."""
        self._sums: dict[str, tuple[float, int]] = {}
        """By source, since the newest batch: sum and number of rewards."""

    def drop(self, outcome: Outcome) -> None:
        """A training group was dropped; one with two prompts does not count, since its rewards are of either."""
        if outcome.drop_reason is not DropReason.CONFLICTING:
            self._add(outcome)

    def train(self, outcomes: Iterable[Outcome]) -> None:
        """A batch was built of the groups with these outcomes."""
        for outcome in outcomes:
            self._add(outcome)
        self.means |= {source: total / number for source, (total, number) in self._sums.items()}
        self._sums = {}

    def _add(self, outcome: Outcome) -> None:
        rewards = [rollout.reward for rollout in outcome.rollouts if rollout.valid]
        if rewards:
            total, number = self._sums.get(outcome.group.source, (0.0, 0))
            self._sums[outcome.group.source] = (total + sum(rewards), number + len(rewards))

"""Where the learner stands: which groups are settled in memory, which durably, and what is not acknowledged."""

from dataclasses import dataclass, replace

from tristream.wire.batches import Batch, Commit, CommittedStep
from tristream.wire.events import Outcome
from tristream.wire.ledger import IntervalSet, Ledger

NOTHING_SETTLED = Ledger(step=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """A state of the learner's books; each event makes a new one."""

    ledger: Ledger = NOTHING_SETTLED
    """As of the newest step."""
    durable: Ledger = NOTHING_SETTLED
    """As of the newest checkpoint."""
    pending: tuple[CommittedStep, ...] = ()
    """Steps whose outcomes the assembler has not acknowledged, oldest first."""

    @property
    def has_steps_to_save(self) -> bool:
        """Whether steps were trained since the newest checkpoint."""
        return self.ledger.step > self.durable.step

    @property
    def checkpoint(self) -> Commit:
        """What a checkpoint of this state keeps."""
        return Commit(ledger=self.ledger, steps=self.pending)

    @classmethod
    def resumed(cls, checkpoint: Commit) -> "Standing":
        """The state that a checkpoint kept."""
        return cls(ledger=checkpoint.ledger, durable=checkpoint.ledger, pending=checkpoint.steps)

    def after_step(self, batch: Batch, outcomes: tuple[Outcome, ...]) -> "Standing":
        """The state once a batch is trained; ``outcomes`` are those of the whole batch with their advantages."""
        settled, dropped = IntervalSet(self.ledger.settled), IntervalSet(self.ledger.dropped)
        for number in batch.dropped:
            dropped.add(number)
        for number in (*batch.dropped, *batch.trained):
            settled.add(number)
        ledger = Ledger(step=batch.step, settled=settled.intervals, dropped=dropped.intervals, offsets=batch.offsets)
        return replace(self, ledger=ledger, pending=(*self.pending, CommittedStep(step=batch.step, outcomes=outcomes)))

    def after_checkpoint(self) -> "Standing":
        """The state once a checkpoint of it is durable."""
        return replace(self, durable=self.ledger)

    def after_commit(self) -> "Standing":
        """The state once the assembler has acknowledged all outcomes."""
        return replace(self, pending=())

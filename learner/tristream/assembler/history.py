"""The steps since a learner attached: what was built, what of it is committed, and which ledgers continue it."""

from tristream.assembler.errors import LedgerMismatchError
from tristream.assembler.shards import BuiltBatch
from tristream.wire.batches import Commit
from tristream.wire.events import Interval, Ledger
from tristream.wire.ledger import IntervalSet


class History:
    """Steps and batches from where a learner stood."""

    def __init__(self, ledger: Ledger, world_size: int) -> None:
        self.world_size = world_size
        self.last_step = ledger.step
        """Newest step that was built, or at which the learner attached."""
        self.committed_step = 0
        """Newest step of a durable checkpoint that was told of here."""
        self.batches: dict[int, BuiltBatch] = {}
        """Batches that are not committed, by step."""
        self._attached = IntervalSet(ledger.settled)
        self._base = ledger
        """Where the batches begin: the ledger of the attach, or of the newest commit."""
        self._newest_trained: tuple[int, int] | None = None
        """A group that was committed last, and its step."""

    def add(self, batch: BuiltBatch) -> None:
        """The next step was built."""
        self.batches[batch.step] = batch
        self.last_step = batch.step

    def commit(self, commit: Commit) -> None:
        """A checkpoint is durable: its batches are needed no more."""
        for step in commit.steps:
            if step.outcomes:
                self._newest_trained = (step.outcomes[0].group.number, step.step)
        self.committed_step = max(self.committed_step, commit.ledger.step)
        if commit.ledger.step >= self._base.step:
            self._base = commit.ledger
        for covered in [step for step in self.batches if step <= commit.ledger.step]:
            del self.batches[covered]

    def continues(self, ledger: Ledger, world_size: int) -> bool:
        """Whether everything after a learner's ledger is still here as it was."""
        if world_size != self.world_size or ledger.step not in range(self._base.step, self.last_step + 1):
            return False
        return self._settled_after(ledger.step) == ledger.settled

    def check_ledger(self, ledger: Ledger) -> None:
        """Compare a ledger with what was committed.

        Raises:
            LedgerMismatchError: it is older.
        """
        if ledger.step < self.committed_step and self._newest_trained is not None:
            number, step = self._newest_trained
            raise LedgerMismatchError(_explain_mismatch(number, step, ledger.step))

    def check_trained(self, number: int, step: int) -> None:
        """Compare an outcome on the log with the ledger of the attach.

        Raises:
            LedgerMismatchError: the log says that a group was trained that the ledger does not know.
        """
        if number not in self._attached:
            raise LedgerMismatchError(_explain_mismatch(number, step, self.last_step))

    def explain_refusal(self, step: int) -> str:
        """Why a step is not to be had."""
        if step <= self.committed_step:
            return f"step {step} is committed; the next one is step {self.last_step + 1}"
        if step <= self.last_step:
            return f"step {step} was trained before the learner attached; the next one is step {self.last_step + 1}"
        return f"step {step} cannot be built: the next one is step {self.last_step + 1}"

    def _settled_after(self, step: int) -> tuple[Interval, ...]:
        settled = IntervalSet(self._base.settled)
        for number in range(self._base.step + 1, step + 1):
            batch = self.batches[number]
            for group in (*(outcome.group.number for outcome in batch.outcomes), *batch.dropped):
                settled.add(group)
        return settled.intervals


def _explain_mismatch(number: int, trained_step: int, checkpoint_step: int) -> str:
    return (
        f"the log says that group {number} was trained at step {trained_step}, "
        f"which the checkpoint of step {checkpoint_step} does not know"
    )

"""Which learner is served: the one with the newest epoch; what an older one asks for is refused."""

from tristream.assembler.errors import SupersededLearnerError
from tristream.assembler.facts import StatusFact
from tristream.runtime.claims import MOST_EPOCH
from tristream.runtime.succession import Succession
from tristream.wire.events import Part


class ServedLearner:
    """The newest learner of a run that attached, or that the log of the statuses names."""

    def __init__(self, run: str) -> None:
        self._run = run
        self._succession = Succession()
        self.epoch = 0
        self.instance = ""
        """Name of its process; empty if it did not say."""

    def take_status(self, status: StatusFact) -> None:
        """Take a status of any process: a learner that took over is known before it attaches."""
        if status.part is not Part.LEARNER or status.run != self._run or status.epoch > MOST_EPOCH:
            return
        holds_epoch = self._succession.shows(
            instance=status.instance,
            epoch=status.epoch,
            claimed_epoch=status.claimed_epoch,
            created_ns=status.created_ns,
        )
        if holds_epoch and status.epoch > self.epoch:
            self.epoch, self.instance = status.epoch, status.instance

    def admit(self, epoch: int, instance: str) -> None:
        """A learner attaches.

        Raises:
            SupersededLearnerError: there is a newer one.
        """
        self.check(epoch)
        self.epoch, self.instance = epoch, instance

    def check(self, epoch: int) -> None:
        """A learner asks for something.

        Raises:
            SupersededLearnerError: there is a newer one.
        """
        if epoch < self.epoch:
            newer = f" ({self.instance})" if self.instance else ""
            raise SupersededLearnerError(
                f"the learner of epoch {epoch} is superseded by that of epoch {self.epoch}{newer}"
            )

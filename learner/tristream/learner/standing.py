"""Where the learner stands: which groups are settled in memory, which durably, and what is not acknowledged."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace

from tristream.wire.batches import Batch, Commit, CommittedStep
from tristream.wire.events import Ledger, LogPosition, Outcome
from tristream.wire.ledger import IntervalSet, number_checksum

NOTHING_SETTLED = Ledger(step=0)
SHOWN_NUMBERS = 5
"""Group numbers that a refusal names."""


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

    def after_step(self, batch: Batch, outcomes: tuple[Outcome, ...], *, epoch: int) -> "Standing":
        """The state once a batch is trained; ``outcomes`` are those of the whole batch with their advantages."""
        ledger = settle(self.ledger, batch.step, batch.trained, batch.dropped, batch.position, epoch=epoch)
        return replace(self, ledger=ledger, pending=(*self.pending, CommittedStep(step=batch.step, outcomes=outcomes)))

    def after_checkpoint(self) -> "Standing":
        """The state once a checkpoint of it is durable."""
        return replace(self, durable=self.ledger)

    def after_commit(self) -> "Standing":
        """The state once the assembler has acknowledged all outcomes."""
        return replace(self, pending=())


def settle(
    ledger: Ledger, step: int, trained: Iterable[int], dropped: Iterable[int], position: LogPosition, *, epoch: int
) -> Ledger:
    """The ledger after a step.

    Args:
        ledger: the ledger before it.
        step: number of the step.
        trained: numbers of its groups.
        dropped: numbers dropped since the step before.
        position: where the rest begins on the log.
        epoch: epoch of the learner that trained it.
    """
    settled, gone = IntervalSet(ledger.settled), tuple(dropped)
    for number in (*gone, *trained):
        settled.add(number)
    return Ledger(
        step=step,
        settled=settled.intervals,
        num_dropped=ledger.num_dropped + len(gone),
        dropped_checksum=(ledger.dropped_checksum + number_checksum(gone)) % 2**64,
        epoch=epoch,
        position=position,
    )


def explain_refusal(ledger: Ledger, batch: Batch, groups_per_step: int) -> str:
    """Why a batch must not be trained by a learner that stands at ``ledger``, in words; empty if it may be."""
    if batch.step != ledger.step + 1:
        return f"it is of step {batch.step}, and step {ledger.step + 1} is to be trained"
    if len(batch.trained) != groups_per_step:
        return f"it has {len(batch.trained)} groups, and a step has {groups_per_step}"
    numbers = Counter((*batch.trained, *batch.dropped))
    repeated = sorted(number for number, count in numbers.items() if count > 1)
    if repeated:
        return f"it settles {_name_groups(repeated)} twice"
    settled = IntervalSet(ledger.settled)
    known = sorted(number for number in numbers if number in settled)
    if known:
        return f"it settles {_name_groups(known)}, which an earlier step settled"
    foreign = sorted({group.group.number for group in batch.groups} - set(batch.trained))
    if foreign:
        return f"it has rollouts of {_name_groups(foreign)}, of which it has no outcome"
    return ""


def _name_groups(numbers: list[int]) -> str:
    shown = ", ".join(map(str, numbers[:SHOWN_NUMBERS]))
    more = f" and {len(numbers) - SHOWN_NUMBERS} more" if len(numbers) > SHOWN_NUMBERS else ""
    return f"group{'s' if len(numbers) > 1 else ''} {shown}{more}"

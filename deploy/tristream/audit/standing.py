"""Where a run stands: its newest ledger, what is pending in its newest checkpoint, and whether it is finished."""

from collections.abc import Mapping
from dataclasses import dataclass

from tristream.runtime.errors import UserError
from tristream.runtime.run_folder import RunFolder, checkpoint_step, ledger_file
from tristream.wire.batches import Commit
from tristream.wire.codecs.batches import commit_from_json
from tristream.wire.events import Ledger


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """What facts are compared with, beside each other."""

    groups_per_step: int
    max_staleness: int
    drops_zero_variance: bool
    is_finished: bool
    """Whether nothing may be pending."""
    total_steps: int
    ledger: Ledger | None
    """The newest one that was durable before the log was read."""
    later_ledger: Ledger | None
    """The newest one after it was read."""
    checkpoint_step: int | None
    """Step of the newest checkpoint after the log was read; None without one."""
    pending: Mapping[int, int]
    """Steps of groups, by number, whose outcomes the assembler may not have acknowledged."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """What the newest checkpoint says of groups."""

    step: int
    commit: Commit

    @property
    def pending(self) -> dict[int, int]:
        """Steps by group number whose outcomes were not acknowledged when it was written."""
        return {outcome.group.number: step.step for step in self.commit.steps for outcome in step.outcomes}


def newest_checkpoint(folder: RunFolder) -> Checkpoint | None:
    """What the newest whole checkpoint of a run says of groups, or None without one.

    Raises:
        UserError: the ledger of the checkpoint cannot be read.
    """
    while checkpoints := folder.find_checkpoints():
        path = ledger_file(checkpoints[-1])
        try:
            commit = commit_from_json(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            continue  # replaced or removed by a learner at work
        except (OSError, ValueError) as error:
            raise UserError(
                f"not a ledger ({str(error).splitlines()[0]})", where=str(path), remedy="delete this checkpoint"
            ) from None
        return Checkpoint(step=checkpoint_step(checkpoints[-1]) or 0, commit=commit)
    return None

"""Checkpoints: model, optimizer, random state and ledger as one atomic directory.

    checkpoints/epoch-3         the newest learner of this folder; earlier ones rename and remove nothing any more
    checkpoints/step-000010-e3/
        run.json       identity of the run, checked before anything else is read
        ledger.json    settled groups, and the outcomes that the assembler has not acknowledged yet
        state/         DeepSpeed's model and optimizer state, for any number of ranks
        rng-RANK.bin   state of torch's generator of each rank

A directory is written under a temporary name, synced and renamed, so that a name without suffix is always whole.
Nothing is overwritten: the name holds the epoch. A learner that takes the folder over leaves its mark and then removes
what earlier ones have not finished; they look for a mark before they rename. So one that was frozen, whenever it
wakes up, cannot add a checkpoint that its successor has not seen.
"""

import json
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from tristream.learner.ranks import Ranks
from tristream.learner.waiting import needs_space
from tristream.runtime.durable_files import sync
from tristream.runtime.errors import UserError
from tristream.runtime.hooks import reach
from tristream.runtime.run_folder import RunFolder, checkpoint_epoch, ledger_file
from tristream.wire.batches import Commit
from tristream.wire.codecs.base import MalformedEventError
from tristream.wire.codecs.batches import commit_from_json, commit_to_json

EPOCH_PREFIX = "epoch-"
TEMPORARY_SUFFIX = ".tmp"


@dataclass(frozen=True, slots=True, kw_only=True)
class RunIdentity:
    """What must be equal for a run to go on from a checkpoint, but for what may change."""

    run: str
    seed: int
    total_steps: int
    model: str
    """Fingerprint of the model folder."""
    world_size: int
    """Number of ranks that wrote it."""
    zero_stage: int
    precision: str


MAY_CHANGE = ("total_steps", "world_size")
"""What may be another from one learner to the next."""


# Whose folder it is ------------------------------------------------------------------------------


def newest_epoch(folder: RunFolder) -> int:
    """Greatest epoch of a learner that this folder has seen; 0 if it has seen none."""
    marked = [epoch for epoch, _ in _marks(folder)]
    return max([0, *marked, *map(checkpoint_epoch, folder.find_checkpoints())])


def take_over(folder: RunFolder, epoch: int) -> None:
    """Make the folder that of a learner, before it looks for a checkpoint to resume from.

    Raises:
        UserError: it belongs to a learner of a later epoch.
        NoSpaceError: the disk is full.
    """
    require_own(folder, epoch)
    with needs_space(folder.checkpoints):
        folder.checkpoints.mkdir(parents=True, exist_ok=True)
        _mark(folder, epoch).touch()
        sync(folder.checkpoints)
    reach("checkpoint.taken_over")
    for path in folder.find_unfinished_checkpoints():
        if checkpoint_epoch(path.with_name(path.stem)) <= epoch:
            shutil.rmtree(path, ignore_errors=True)
    for earlier, path in _marks(folder):
        if earlier < epoch:
            path.unlink(missing_ok=True)


def require_own(folder: RunFolder, epoch: int) -> None:
    """Check that no later learner has taken the folder over.

    Raises:
        UserError: one has.
    """
    newest = newest_epoch(folder)
    if newest > epoch:
        raise UserError(
            f"a learner of epoch {newest} has taken over, and this one is of epoch {epoch}",
            where=str(folder.checkpoints),
            remedy="let it go on, or stop it first",
        )


# Writing and removing ----------------------------------------------------------------------------


def write_checkpoint(
    folder: RunFolder,
    identity: RunIdentity,
    commit: Commit,
    save_state: Callable[[Path], None],
    *,
    ranks: Ranks,
    epoch: int,
    check: Callable[[], None] = lambda: None,
) -> Path:
    """Write a checkpoint; called by all ranks together, with a folder that all ranks see.

    While the disk is full it waits, and what it had written is removed.

    Args:
        folder: folder of the run.
        identity: identity of the run.
        commit: the ledger and the outcomes that are not acknowledged.
        save_state: writes the engine's state of this rank into the given folder; uses the same collectives on all
            ranks, whether it fails or not.
        ranks: the ranks; rank 0 names and renames.
        epoch: epoch of the learner.
        check: raises if the learner has a successor.

    Raises:
        StoppedError: a rank was told to stop while it waited for space; what was there before is untouched.
        UserError: another learner has taken over.
    """
    writing = _Writing(folder, folder.checkpoint(commit.ledger.step, epoch), ranks, epoch)
    works = (
        lambda: writing.prepare(identity, commit),
        lambda: writing.save(save_state),
        lambda: writing.finish(check),
    )
    try:
        while waits_for := next((waits for work in works if (waits := ranks.attempt(work).waits_for)), ""):
            writing.remove()
            ranks.pause(waits_for)
    except Exception:
        writing.remove()
        require_own(folder, epoch)  # a successor removes what is not finished, which fails in many ways
        raise
    return writing.target


def remove_old_checkpoints(folder: RunFolder, keep: int, *, epoch: int) -> None:
    """Delete all but the newest ``keep`` checkpoints.

    Raises:
        UserError: a later learner has taken over; nothing is deleted.
    """
    require_own(folder, epoch)
    for path in folder.find_checkpoints()[:-keep]:
        if checkpoint_epoch(path) <= epoch:  # a later learner may take over at this moment
            shutil.rmtree(path, ignore_errors=True)


# Reading -----------------------------------------------------------------------------------------


def read_commit(checkpoint: Path, identity: RunIdentity) -> Commit:
    """The ledger of a checkpoint and its pending outcomes, after checking that it belongs to this run.

    Raises:
        UserError: it is a checkpoint of another run or of other settings (names what differs), it has more steps than
            the run shall have, or it cannot be read.
    """
    saved = json.loads((checkpoint / "run.json").read_text(encoding="utf-8"))
    current = asdict(identity)
    differing = [name for name in current if name not in MAY_CHANGE and saved.get(name) != current[name]]
    if differing:
        changes = ", ".join(f"{name} was {saved.get(name)} and is {current[name]}" for name in differing)
        raise UserError(
            f"the checkpoint belongs to another run: {changes}",
            where=str(checkpoint),
            remedy=f"give another run.id, restore the old settings, or delete {checkpoint.parent}",
        )
    try:
        commit = commit_from_json(ledger_file(checkpoint).read_text(encoding="utf-8"))
    except MalformedEventError as error:
        raise UserError(
            f"the checkpoint's ledger cannot be read ({str(error).splitlines()[0]})",
            where=str(checkpoint),
            remedy=f"give another run.id, or delete {checkpoint.parent}",
        ) from None
    if commit.ledger.step > identity.total_steps:
        raise UserError(
            f"the run has trained {commit.ledger.step} steps, and run.steps is {identity.total_steps}",
            where=str(checkpoint),
            remedy=f"give at least {commit.ledger.step} steps",
        )
    return commit


def restore_rng(checkpoint: Path, rank: int) -> None:
    """Restore torch's generator of this rank; that of a rank that did not write the checkpoint stays as it is."""
    path = checkpoint / f"rng-{rank}.bin"
    if path.exists():
        torch.set_rng_state(torch.frombuffer(bytearray(path.read_bytes()), dtype=torch.uint8))


# Inside ------------------------------------------------------------------------------------------


class _Writing:
    """A checkpoint that is being written; rank 0 alone names, renames and removes."""

    def __init__(self, folder: RunFolder, target: Path, ranks: Ranks, epoch: int) -> None:
        self.target = target
        self._folder = folder
        self._temporary = target.with_name(target.name + TEMPORARY_SUFFIX)
        self._ranks = ranks
        self._epoch = epoch

    def prepare(self, identity: RunIdentity, commit: Commit) -> None:
        """Make the folder, with what is in it once."""
        if self._ranks.rank != 0:
            return
        require_own(self._folder, self._epoch)
        self.remove()
        with needs_space(self.target.parent):
            self._temporary.mkdir(parents=True)
            (self._temporary / "run.json").write_text(json.dumps(asdict(identity), indent=2), encoding="utf-8")
            ledger_file(self._temporary).write_text(commit_to_json(commit), encoding="utf-8")

    def save(self, save_state: Callable[[Path], None]) -> None:
        """Write what each rank has of its own."""
        with needs_space(self.target.parent):
            save_state(self._temporary)
            random_state = torch.get_rng_state().numpy().tobytes()
            (self._temporary / f"rng-{self._ranks.rank}.bin").write_bytes(random_state)

    def finish(self, check: Callable[[], None]) -> None:
        """Sync and rename."""
        if self._ranks.rank != 0:
            return
        with needs_space(self.target.parent):
            for path in [*self._temporary.rglob("*"), self._temporary]:
                sync(path)
        reach("checkpoint.written")
        check()
        require_own(self._folder, self._epoch)
        with needs_space(self.target.parent):
            self._temporary.rename(self.target)
        reach("checkpoint.renamed")
        sync(self.target.parent)

    def remove(self) -> None:
        """Remove what was written."""
        if self._ranks.rank == 0:
            shutil.rmtree(self._temporary, ignore_errors=True)


def _mark(folder: RunFolder, epoch: int) -> Path:
    return folder.checkpoints / f"{EPOCH_PREFIX}{epoch}"


def _marks(folder: RunFolder) -> list[tuple[int, Path]]:
    paths = folder.checkpoints.glob(f"{EPOCH_PREFIX}*")
    numbered = [(path.name.removeprefix(EPOCH_PREFIX), path) for path in paths]
    return [(int(number), path) for number, path in numbered if number.isdigit()]

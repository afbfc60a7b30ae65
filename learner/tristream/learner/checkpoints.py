"""Checkpoints: model, optimizer, random state and ledger as one atomic directory.

    checkpoints/step-000010/
        run.json       identity of the run, checked before anything else is read
        ledger.json    settled groups, and the outcomes that the assembler has not acknowledged yet
        state/         DeepSpeed's model and optimizer state
        rng-RANK.bin   state of torch's generator of each rank

A directory is written under a temporary name, synced and renamed, so that a name without suffix is always
whole. Nothing is overwritten: a step that is there already is moved aside until the new one is in place.
"""

import errno
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from tristream.runtime.errors import UserError
from tristream.runtime.hooks import reach
from tristream.runtime.run_folder import CHECKPOINT_PREFIX, RunFolder, ledger_file
from tristream.wire.batches import Commit
from tristream.wire.codecs.base import MalformedEventError
from tristream.wire.codecs.batches import commit_from_json, commit_to_json


@dataclass(frozen=True, slots=True, kw_only=True)
class RunIdentity:
    """What must be equal for a run to go on from a checkpoint."""

    run: str
    seed: int
    total_steps: int
    model: str
    """Fingerprint of the model folder."""
    world_size: int
    zero_stage: int
    precision: str


def write_checkpoint(
    folder: RunFolder,
    identity: RunIdentity,
    commit: Commit,
    save_state: Callable[[Path], None],
    *,
    rank: int,
    barrier: Callable[[], None],
) -> Path:
    """Write a checkpoint; called by all ranks together, with a folder that all ranks see.

    Args:
        folder: folder of the run.
        identity: identity of the run.
        commit: the ledger and the outcomes that are not acknowledged.
        save_state: writes the engine's state of this rank into the given folder.
        rank: rank of this process; rank 0 names and renames.
        barrier: waits for all ranks.

    Raises:
        UserError: the disk is full; what was there before is untouched.
    """
    target = folder.checkpoint(commit.ledger.step)
    temporary = target.with_name(f"{target.name}.tmp")
    try:
        if rank == 0:
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir(parents=True)
            (temporary / "run.json").write_text(json.dumps(asdict(identity), indent=2), encoding="utf-8")
            ledger_file(temporary).write_text(commit_to_json(commit), encoding="utf-8")
        barrier()
        save_state(temporary)
        (temporary / f"rng-{rank}.bin").write_bytes(torch.get_rng_state().numpy().tobytes())
        barrier()
        if rank == 0:
            _sync(temporary)
            reach("checkpoint.written")
            _replace(temporary, target)
            reach("checkpoint.renamed")
    except (OSError, RuntimeError) as error:
        shutil.rmtree(temporary, ignore_errors=True)
        if not _is_disk_full(error):
            raise
        raise UserError(
            "the disk is full, so that the checkpoint cannot be written",
            where=str(target.parent),
            remedy="free space and start the same command again; it resumes from the checkpoint before",
        ) from None
    barrier()
    return target


def remove_old_checkpoints(folder: RunFolder, keep: int) -> None:
    """Delete all but the newest ``keep`` checkpoints, and what an interrupted write left."""
    for path in folder.find_checkpoints()[:-keep]:
        shutil.rmtree(path)
    for suffix in ("tmp", "old"):
        for path in folder.checkpoints.glob(f"{CHECKPOINT_PREFIX}*.{suffix}"):
            shutil.rmtree(path, ignore_errors=True)


def read_commit(checkpoint: Path, identity: RunIdentity) -> Commit:
    """The ledger of a checkpoint and its pending outcomes, after checking that it belongs to this run.

    Raises:
        UserError: it is a checkpoint of another run or of other settings (names what differs), or it cannot be read.
    """
    saved = json.loads((checkpoint / "run.json").read_text(encoding="utf-8"))
    current = asdict(identity)
    differing = [name for name in current if saved.get(name) != current[name]]
    if differing:
        changes = ", ".join(f"{name} was {saved.get(name)} and is {current[name]}" for name in differing)
        raise UserError(
            f"the checkpoint belongs to another run: {changes}",
            where=str(checkpoint),
            remedy=f"give another run.id, restore the old settings, or delete {checkpoint.parent}",
        )
    try:
        return commit_from_json(ledger_file(checkpoint).read_text(encoding="utf-8"))
    except MalformedEventError as error:
        raise UserError(
            f"the checkpoint's ledger cannot be read ({str(error).splitlines()[0]})",
            where=str(checkpoint),
            remedy=f"give another run.id, or delete {checkpoint.parent}",
        ) from None


def restore_rng(checkpoint: Path, rank: int) -> None:
    """Restore torch's generator of this rank."""
    state = bytearray((checkpoint / f"rng-{rank}.bin").read_bytes())
    torch.set_rng_state(torch.frombuffer(state, dtype=torch.uint8))


def _replace(temporary: Path, target: Path) -> None:
    aside = target.with_name(f"{target.name}.old")
    if target.exists():
        shutil.rmtree(aside, ignore_errors=True)
        target.rename(aside)
        reach("checkpoint.aside")
    temporary.rename(target)
    reach("checkpoint.in_place")
    _sync_one(target.parent)
    shutil.rmtree(aside, ignore_errors=True)


def _sync(folder: Path) -> None:
    for path in [*folder.rglob("*"), folder]:
        _sync_one(path)


def _sync_one(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _is_disk_full(error: BaseException) -> bool:
    """Whether the disk is full; torch reports it as a RuntimeError of its archive writer."""
    return getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or "file write failed" in str(error)

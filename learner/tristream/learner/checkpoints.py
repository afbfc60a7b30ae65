"""Checkpoints: model, optimizer, random state and ledger as one atomic directory.

    checkpoints/step-000010/
        run.json       identity of the run, checked before anything else is read
        ledger.json    settled groups, and the outcomes that the assembler has not acknowledged yet
        state/         DeepSpeed's model and optimizer state
        rng-RANK.bin   state of torch's generator of each rank

A directory is written under a temporary name, synced and renamed, so that a name without suffix is always
whole. Nothing is overwritten: a step that is there already is moved aside until the new one is in place.
"""

import base64
import errno
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from tristream.batches.v1 import batch_service_pb2
from tristream.runtime.errors import UserError
from tristream.wire import batches as batch_codecs
from tristream.wire.batches import CommittedStep
from tristream.wire.ledger import IntervalSet, Ledger

STATE_TAG = "state"
PREFIX = "step-"


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Bookkeeping:
    """What the learner knows of the groups, as of one step."""

    ledger: Ledger
    pending: tuple[CommittedStep, ...]
    """Steps whose outcomes the assembler has not acknowledged."""


def find_checkpoints(folder: Path) -> list[Path]:
    """Whole checkpoints, oldest first."""
    names = (path for path in folder.glob(f"{PREFIX}*") if path.name.removeprefix(PREFIX).isdigit())
    return sorted((path for path in names if (path / "ledger.json").exists()), key=lambda path: path.name)


def write_checkpoint(
    folder: Path,
    identity: RunIdentity,
    bookkeeping: Bookkeeping,
    save_state: Callable[[Path], None],
    *,
    rank: int,
    barrier: Callable[[], None],
) -> Path:
    """Write a checkpoint; called by all ranks together, with a folder that all ranks see.

    Args:
        folder: folder of the run's checkpoints.
        identity: identity of the run.
        bookkeeping: the ledger and what is not acknowledged.
        save_state: writes the engine's state of this rank into the given folder.
        rank: rank of this process; rank 0 names and renames.
        barrier: waits for all ranks.

    Raises:
        UserError: the disk is full; what was there before is untouched.
    """
    target = folder / f"{PREFIX}{bookkeeping.ledger.step:06d}"
    temporary = folder / f"{target.name}.tmp"
    try:
        if rank == 0:
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir(parents=True)
            (temporary / "run.json").write_text(json.dumps(asdict(identity), indent=2), encoding="utf-8")
            (temporary / "ledger.json").write_text(_bookkeeping_to_json(bookkeeping), encoding="utf-8")
        barrier()
        save_state(temporary)
        (temporary / f"rng-{rank}.bin").write_bytes(bytes(torch.get_rng_state().tolist()))
        barrier()
        if rank == 0:
            _sync(temporary)
            _replace(temporary, target)
    except (OSError, RuntimeError) as error:
        shutil.rmtree(temporary, ignore_errors=True)
        if not _is_disk_full(error):
            raise
        raise UserError(
            "the disk is full, so that the checkpoint cannot be written",
            where=str(folder),
            remedy="free space and start the same command again; it resumes from the checkpoint before",
        ) from None
    barrier()
    return target


def remove_old_checkpoints(folder: Path, keep: int) -> None:
    """Delete all but the newest ``keep`` checkpoints, and what an interrupted write left."""
    for path in find_checkpoints(folder)[:-keep]:
        shutil.rmtree(path)
    for path in [*folder.glob(f"{PREFIX}*.tmp"), *folder.glob(f"{PREFIX}*.old")]:
        shutil.rmtree(path, ignore_errors=True)


def read_bookkeeping(checkpoint: Path, identity: RunIdentity) -> Bookkeeping:
    """The ledger of a checkpoint, after checking that it belongs to this run.

    Raises:
        UserError: it is a checkpoint of another run, or of other settings; names what differs.
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
    return _bookkeeping_from_json((checkpoint / "ledger.json").read_text(encoding="utf-8"))


def restore_rng(checkpoint: Path, rank: int) -> None:
    """Restore torch's generator of this rank."""
    state = (checkpoint / f"rng-{rank}.bin").read_bytes()
    torch.set_rng_state(torch.tensor(list(state), dtype=torch.uint8))


def _bookkeeping_to_json(bookkeeping: Bookkeeping) -> str:
    ledger = batch_codecs.ledger_to_message(bookkeeping.ledger)
    request = batch_service_pb2.CommitRequest(
        steps=[batch_codecs.committed_step_to_message(step) for step in bookkeeping.pending], ledger=ledger
    )
    readable = {
        "step": bookkeeping.ledger.step,
        "settled": [[interval.start, interval.end] for interval in bookkeeping.ledger.settled],
        "dropped": [[interval.start, interval.end] for interval in bookkeeping.ledger.dropped],
        "pending": [[interval.start, interval.end] for interval in _pending_groups(bookkeeping).intervals],
        "commit_request": base64.b64encode(request.SerializeToString(deterministic=True)).decode(),
    }
    return json.dumps(readable, indent=2)


def _pending_groups(bookkeeping: Bookkeeping) -> IntervalSet:
    return IntervalSet.of(outcome.group.number for step in bookkeeping.pending for outcome in step.outcomes)


def _bookkeeping_from_json(text: str) -> Bookkeeping:
    values: dict[str, Any] = json.loads(text)
    request = batch_service_pb2.CommitRequest.FromString(base64.b64decode(values["commit_request"]))
    return Bookkeeping(
        ledger=batch_codecs.ledger_from_message(request.ledger),
        pending=tuple(batch_codecs.committed_step_from_message(step) for step in request.steps),
    )


def _replace(temporary: Path, target: Path) -> None:
    aside = target.with_name(f"{target.name}.old")
    if target.exists():
        shutil.rmtree(aside, ignore_errors=True)
        target.rename(aside)
    temporary.rename(target)
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

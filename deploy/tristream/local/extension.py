"""Longer runs: one that is started with more steps than before goes on from its newest checkpoint."""

import json
import time
from collections.abc import Sequence

from tristream.config.run_file import RunFile
from tristream.runtime.errors import UserError
from tristream.runtime.run_folder import RunFolder, checkpoint_step
from tristream.wire.events import Command, CommandKind


def steps_before(folder: RunFolder) -> int:
    """Steps that the run was started with the last time; 0 if it never was."""
    try:
        return int(json.loads(folder.run_file.read_text(encoding="utf-8"))["run"]["steps"])
    except (OSError, ValueError, KeyError, TypeError):
        return 0


def require_enough_steps(folder: RunFolder, num_steps: int) -> None:
    """Check that a run is not asked for fewer steps than it has trained.

    Raises:
        UserError: it is.
    """
    num_trained = max((checkpoint_step(path) or 0 for path in folder.find_checkpoints()), default=0)
    if num_steps < num_trained:
        raise UserError(
            f"it has trained {num_trained} steps already, and {num_steps} are asked for",
            where=str(folder),
            remedy=f"ask for more than {num_trained} with --steps, or start it anew with --again",
        )


def extend_command(settings: RunFile, num_steps_before: int) -> Sequence[Command]:
    """What the log is told of a run that has more steps than before; nothing if it has not."""
    steps = settings.run.steps
    if not 0 < num_steps_before < steps:
        return ()
    extend = Command(
        run=settings.run.id,
        id=f"extend/{steps}",
        kind=CommandKind.EXTEND,
        total_steps=steps,
        reason=f"from {num_steps_before} steps",
        created_ns=time.time_ns(),
    )
    return (extend,)

"""Which weights an engine should have, by what the prompts in work and those that wait want of them; pure.

- While prompts that pin a version are in work, the engine keeps that version, and newer ones wait.
- Another pinned version is loaded when no pinned prompt is in work. Training rollouts go on meanwhile; if it would make
  them too old to be trained, they are finished first, and no more such ones are begun.
- Else the newest weights are loaded at once, while rollouts run.
"""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from tristream.wire.events import Weights


@dataclass(slots=True, kw_only=True, eq=False)
class Need:
    """What weights one prompt wants while it is answered."""

    pinned: Weights | None = None
    """Exactly these; None: any that are fresh enough."""
    num_rollouts: int = 1
    """How many it is to get."""
    oldest_version: int = 0
    """Rollouts with an older version are too old to be trained."""
    since: float = field(default_factory=time.monotonic)
    granted: "asyncio.Future[None]"
    """Is done once the engine has such weights."""


def oldest_trainable(need: Need, newest: Weights | None, max_staleness: int) -> int:
    """Oldest version with which a training rollout can still be trained, at its step and at the learner's next one."""
    return max(need.oldest_version, 0 if newest is None else newest.version - max_staleness)


def is_met(need: Need, has: Weights | None, other_pin: Weights | None, oldest_version: int) -> bool:
    """Whether a prompt may be begun.

    Args:
        need: what it wants; a pinned one is met by exactly its weights.
        has: weights of the engine.
        other_pin: weights that are to be loaded next for others that pin them, if there are such.
        oldest_version: oldest version with which it can be trained, if it pins none.
    """
    if has is None:
        return False
    if need.pinned is not None:
        return need.pinned == has
    version = has.version if other_pin is None else min(has.version, other_pin.version)
    return version >= oldest_version


def next_pin(has: Weights | None, pins: Sequence[Weights]) -> Weights | None:
    """The pinned weights to be loaded next among those that are waited for: the oldest that the engine has not."""
    return min((pin for pin in pins if pin != has), key=lambda pin: pin.version, default=None)


def choose(in_work: Sequence[Need], pin: Weights | None, newest: Weights | None, max_staleness: int) -> Weights | None:
    """The weights that the engine should have now; None: those that it has.

    Args:
        in_work: needs of the prompts that are being answered.
        pin: pinned weights to be loaded next.
        newest: the newest weights.
        max_staleness: largest age of a training rollout in policy versions.
    """
    if any(need.pinned is not None for need in in_work):
        return None
    if pin is None:
        return newest
    would_spoil = any(oldest_trainable(need, newest, max_staleness) > pin.version for need in in_work)
    return None if would_spoil else pin

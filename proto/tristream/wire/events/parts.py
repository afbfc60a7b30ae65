"""Part statuses: what each process of a run does."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

OPEN_GROUPS = "open/"
"""Begins the assembler's measures of training groups that are not complete yet: ``open/SOURCE``."""
JUDGED_REWARD = "judged_reward/"
"""Begins the assembler's measures of the training reward, the mean over all judged rollouts, trained or dropped:
``judged_reward/SOURCE``."""
TRAINED_REWARD = "trained_reward/"
"""Begins the learner's measures of the mean reward of the rollouts that the newest step trained on:
``trained_reward/SOURCE``."""
LAG = "lag_"
"""Begins the measures of the records that a part has not read yet: ``lag_TOPIC``."""
NEEDED_VERIFIERS = "needs/"
"""Begins the dispatcher's measures of the verifiers that the newest prompts need: ``needs/SOURCE/NAME@VERSION``."""


class Part(StrEnum):
    """Kind of process, in the order of the stream."""

    DISPATCHER = "dispatcher"
    PRODUCER = "producer"
    VERIFIER = "verifier"
    ASSEMBLER = "assembler"
    LEARNER = "learner"
    MONITOR = "monitor"


class PartState(StrEnum):
    """How far a process is."""

    STARTING = "starting"
    """It is not yet at work."""
    READY = "ready"
    """It works, or waits for work."""
    DONE = "done"
    """Its work is done, or it was told to stop."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifierLoad:
    """What one process has scored with one verifier version."""

    verifier: str
    version: str
    num_scored: int
    """Rollouts scored since the process started."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PartStatus:
    """One process as it stands."""

    run: str
    part: Part
    instance: str
    """Which process, such as ``host-4711``."""
    state: PartState
    waiting_for: str = ""
    """What it waits for, in words; empty if it works."""
    since_ns: int
    """Since when it is in this state and waits for this."""
    started_ns: int
    """When the process started."""
    created_ns: int
    address: str = ""
    """Where it listens, such as ``http://127.0.0.1:8080/``; empty if it does not."""
    measures: Mapping[str, float] = field(default_factory=dict)
    """Its numbers by name, such as ``version``, ``num_rollouts`` or ``judged_reward/SOURCE``."""
    verifiers: tuple[VerifierLoad, ...] = ()
    """The verifiers it serves."""
    epoch: int = 0
    """Epoch under which it holds its part, for parts of which a run has one; 0 if it does not hold it."""

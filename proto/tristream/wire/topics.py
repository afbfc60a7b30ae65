"""The topics of a run as values: name, codec, key, headers, and the version of the contract they carry."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from tristream.wire.codecs.base import Codec
from tristream.wire.codecs.commands import COMMAND
from tristream.wire.codecs.dead_letters import DEAD_LETTER
from tristream.wire.codecs.outcomes import OUTCOME
from tristream.wire.codecs.parts import PART_STATUS
from tristream.wire.codecs.policies import POLICY as POLICY_CODEC
from tristream.wire.codecs.prompts import PROMPT
from tristream.wire.codecs.rewards import REWARD
from tristream.wire.codecs.rollouts import ROLLOUT
from tristream.wire.codecs.steps import STEP
from tristream.wire.events import (
    Command,
    DeadLetter,
    Outcome,
    PartStatus,
    PolicyVersion,
    Prompt,
    Reward,
    Rollout,
    StepReport,
)
from tristream.wire.verifiers import versioned_name

EventT = TypeVar("EventT")

CONTRACT_VERSION = 2
"""Changes when records of an earlier version can no longer be read; every record carries it."""
CONTRACT_HEADER = "contract"
"""Version of the contract that a record was written under; version 1 wrote none."""
MAX_RECORD_BYTES = 8 * 2**20
"""Largest record; larger payloads belong into the store."""
VERIFIERS_HEADER = "verifiers"
"""Comma-separated ``NAME@VERSION`` of the verifiers wanted, so that others skip without decoding."""
SOURCE_HEADER = "source"
"""Name of the source, for counting without decoding."""
BARRIER_HEADER = "tristream-barrier"
"""Marks a record without a value that only tells a reader how far it has read."""
EPOCH_HEADER = "epoch"
"""Epoch of the part that wrote a record, for parts of which a run has one; what it writes after a fence is void."""
FENCE_HEADER = "tristream-fence"
"""Marks a record without a value from which on its partition belongs to this epoch."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Topic(Generic[EventT]):
    """One topic: what it carries, how records are keyed and labelled."""

    name: str
    """Name without prefix and run, such as ``rollouts``."""
    codec: Codec[EventT]
    key: Callable[[EventT], str]
    headers: Callable[[EventT], Mapping[str, str]] = field(default=lambda _event: {})
    compacted: bool = False
    """Only the newest record of a key is kept."""
    compaction_lag_seconds: int = 0
    """Older records of a key are kept at least so long, for readers that are away for a while."""
    kept_for_ever: bool = False
    """Its records outlive every retention."""
    single_partition: bool = False
    """One partition, so that its records have one order."""
    single_writer: bool = False
    """Written by the one process of a part alone: once it was taken over, a record without an epoch is void."""

    def full_name(self, prefix: str, run: str) -> str:
        """Name on the broker: ``PREFIX.RUN.NAME``."""
        return f"{prefix}.{run}.{self.name}"


def record_headers(topic: Topic[EventT], event: EventT) -> Mapping[str, str]:
    """The headers of an event's record, the version of the contract among them."""
    return {CONTRACT_HEADER: str(CONTRACT_VERSION), **topic.headers(event)}


def _rollout_headers(rollout: Rollout) -> Mapping[str, str]:
    verifiers = ",".join(dict.fromkeys(versioned_name(term.verifier, term.version) for term in rollout.reward.terms))
    return {VERIFIERS_HEADER: verifiers, SOURCE_HEADER: rollout.group.source}


PROMPTS: Topic[Prompt] = Topic(
    name="prompts",
    codec=PROMPT,
    key=lambda prompt: prompt.group.id,
    headers=lambda prompt: {SOURCE_HEADER: prompt.group.source},
    single_writer=True,
)
ROLLOUTS: Topic[Rollout] = Topic(
    name="rollouts", codec=ROLLOUT, key=lambda rollout: rollout.group.id, headers=_rollout_headers
)
REWARDS: Topic[Reward] = Topic(
    name="rewards",
    codec=REWARD,
    key=lambda reward: reward.group.id,
    headers=lambda reward: {SOURCE_HEADER: reward.group.source},
)
OUTCOMES: Topic[Outcome] = Topic(
    name="outcomes",
    codec=OUTCOME,
    key=lambda outcome: outcome.group.id,
    headers=lambda outcome: {SOURCE_HEADER: outcome.group.source},
    single_writer=True,
)
POLICY: Topic[PolicyVersion] = Topic(
    name="policy",
    codec=POLICY_CODEC,
    key=lambda version: version.run,
    compacted=True,
    compaction_lag_seconds=86_400,
    single_partition=True,
    single_writer=True,
)
STEPS: Topic[StepReport] = Topic(
    name="steps", codec=STEP, key=lambda report: report.run, single_partition=True, single_writer=True
)
COMMANDS: Topic[Command] = Topic(
    name="commands", codec=COMMAND, key=lambda command: command.run, single_partition=True, kept_for_ever=True
)
PARTS: Topic[PartStatus] = Topic(
    name="parts",
    codec=PART_STATUS,
    key=lambda status: f"{status.part}/{status.instance}",
    compacted=True,
    single_partition=True,
)
DEAD_LETTERS: Topic[DeadLetter] = Topic(
    name="deadletter", codec=DEAD_LETTER, key=lambda letter: letter.topic, single_partition=True
)

ALL_TOPICS: tuple[Topic[Any], ...] = (
    PROMPTS,
    ROLLOUTS,
    REWARDS,
    OUTCOMES,
    POLICY,
    STEPS,
    COMMANDS,
    PARTS,
    DEAD_LETTERS,
)

"""The eight topics of a run as values: name, codec, key, headers."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from tristream.wire import codecs
from tristream.wire.codecs import Codec
from tristream.wire.events import (
    DeadLetter,
    Outcome,
    PolicyVersion,
    Prompt,
    Reward,
    Rollout,
    StepReport,
    VerifierState,
)

EventT = TypeVar("EventT")

VERIFIERS_HEADER = "verifiers"
"""Comma-separated names of the verifiers wanted, so that others skip without decoding."""
SOURCE_HEADER = "source"
"""Name of the source, for counting without decoding."""
BARRIER_HEADER = "tristream-barrier"
"""Marks a record without a value that only tells a reader how far it has read."""


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
    single_partition: bool = False
    """One partition, so that its records have one order."""

    def full_name(self, prefix: str, run: str) -> str:
        """Name on the broker: ``PREFIX.RUN.NAME``."""
        return f"{prefix}.{run}.{self.name}"


def _rollout_headers(rollout: Rollout) -> Mapping[str, str]:
    verifiers = ",".join(term.verifier for term in rollout.reward.terms)
    return {VERIFIERS_HEADER: verifiers, SOURCE_HEADER: rollout.group.source}


PROMPTS: Topic[Prompt] = Topic(
    name="prompts",
    codec=codecs.PROMPT,
    key=lambda prompt: prompt.group.id,
    headers=lambda prompt: {SOURCE_HEADER: prompt.group.source},
)
ROLLOUTS: Topic[Rollout] = Topic(
    name="rollouts", codec=codecs.ROLLOUT, key=lambda rollout: rollout.group.id, headers=_rollout_headers
)
REWARDS: Topic[Reward] = Topic(
    name="rewards",
    codec=codecs.REWARD,
    key=lambda reward: reward.group.id,
    headers=lambda reward: {SOURCE_HEADER: reward.group.source},
)
OUTCOMES: Topic[Outcome] = Topic(
    name="outcomes",
    codec=codecs.OUTCOME,
    key=lambda outcome: outcome.group.id,
    headers=lambda outcome: {SOURCE_HEADER: outcome.group.source},
)
POLICY: Topic[PolicyVersion] = Topic(
    name="policy", codec=codecs.POLICY, key=lambda version: version.run, compacted=True, single_partition=True
)
STEPS: Topic[StepReport] = Topic(name="steps", codec=codecs.STEP, key=lambda report: report.run, single_partition=True)
VERIFIERS: Topic[VerifierState] = Topic(
    name="verifiers", codec=codecs.VERIFIER, key=lambda state: state.verifier, compacted=True, single_partition=True
)
DEAD_LETTERS: Topic[DeadLetter] = Topic(
    name="deadletter", codec=codecs.DEAD_LETTER, key=lambda letter: letter.topic, single_partition=True
)

ALL_TOPICS: tuple[
    Topic[Prompt]
    | Topic[Rollout]
    | Topic[Reward]
    | Topic[Outcome]
    | Topic[PolicyVersion]
    | Topic[StepReport]
    | Topic[VerifierState]
    | Topic[DeadLetter],
    ...,
] = (
    PROMPTS,
    ROLLOUTS,
    REWARDS,
    OUTCOMES,
    POLICY,
    STEPS,
    VERIFIERS,
    DEAD_LETTERS,
)

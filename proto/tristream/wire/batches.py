"""Values of the batch service: what the assembler gives to the ranks of a learner, and what they give back."""

from dataclasses import dataclass
from functools import cached_property

from tristream.wire.events import Group, Image, Ledger, LogPosition, Outcome, Segment
from tristream.wire.events.rollouts import images_of, num_sampled_tokens_of, num_tokens_of

MAX_MESSAGE_BYTES = 256 * 2**20
"""Largest shard of a rank."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingRollout:
    """One rollout as the learner trains it; what it is worth is in its group's outcome."""

    index: int
    segments: tuple[Segment, ...]
    """Its tokens in order; at least one segment is sampled, though perhaps nothing came of it."""
    temperature: float
    is_truncated: bool = False
    """Whether its last answer was cut off, by its length or its time."""

    @property
    def images(self) -> tuple[Image, ...]:
        """The images of all segments, in order."""
        return images_of(self.segments)

    @property
    def num_tokens(self) -> int:
        """All tokens, given and sampled."""
        return num_tokens_of(self.segments)

    @property
    def num_sampled_tokens(self) -> int:
        """Tokens that the policy sampled."""
        return num_sampled_tokens_of(self.segments)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingGroup:
    """One scored group: its valid rollouts, and those only."""

    group: Group
    rollouts: tuple[TrainingRollout, ...]


@dataclass(frozen=True, kw_only=True)
class Batch:
    """The shard of one rank for one step, with what all ranks must agree on."""

    step: int
    rank: int
    groups: tuple[TrainingGroup, ...]
    """Groups of this rank; group numbers ascend."""
    outcomes: tuple[Outcome, ...]
    """Outcomes of all groups over all ranks, group numbers ascending; their advantages are not yet set."""
    num_global_tokens: int
    """Sampled tokens of the whole batch over all ranks."""
    num_global_rollouts: int
    dropped: tuple[int, ...]
    """Group numbers dropped since the batch before, which this step settles too."""
    position: LogPosition
    """Where reading must start once this batch is settled."""

    @cached_property
    def trained(self) -> tuple[int, ...]:
        """Numbers of all groups over all ranks, ascending."""
        return tuple(outcome.group.number for outcome in self.outcomes)


@dataclass(frozen=True, slots=True, kw_only=True)
class NotReady:
    """There is no batch yet."""

    waiting_for: str
    """What the batch waits for, in words."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CommittedStep:
    """The outcomes of the groups that one step trained."""

    step: int
    outcomes: tuple[Outcome, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Commit:
    """What a durable checkpoint covers, as the checkpoint itself keeps it."""

    ledger: Ledger
    """Which groups the checkpoint settles."""
    steps: tuple[CommittedStep, ...] = ()
    """Steps whose outcomes the assembler has not acknowledged, oldest first."""

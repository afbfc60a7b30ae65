"""The events of a run as frozen dataclasses: what every part talks about.

Protobuf never leaves ``tristream.wire.codecs``; domain code handles these values. Times are nanoseconds since
the epoch, durations seconds, log-probabilities nats. Token ids and log-probabilities stay packed bytes until
somebody needs them (``tristream.wire.arrays``).
"""

from tristream.wire.events.commands import Command, CommandKind
from tristream.wire.events.dead_letters import DeadLetter
from tristream.wire.events.ledgers import EvaluatedRound, Interval, Ledger, LogPosition, PartitionOffset
from tristream.wire.events.outcomes import DropReason, Fate, Outcome, RolloutOutcome
from tristream.wire.events.parts import Part, PartState, PartStatus, VerifierLoad
from tristream.wire.events.policies import PolicyVersion, Weights
from tristream.wire.events.prompts import Prompt, Sampling
from tristream.wire.events.rewards import Reward, Status
from tristream.wire.events.rollouts import FinishReason, Rollout, Segment, SegmentKind, VersionSpan, given, sampled
from tristream.wire.events.samples import (
    IMAGE_MARKER,
    Combine,
    Group,
    Image,
    Message,
    OnUnscored,
    Progress,
    RewardSpec,
    RewardTerm,
    Split,
    TermMode,
)
from tristream.wire.events.steps import RolloutStatistics, StepReport

Event = Prompt | Rollout | Reward | Outcome | PolicyVersion | StepReport | Command | PartStatus | DeadLetter

__all__ = [
    "IMAGE_MARKER",
    "Combine",
    "Command",
    "CommandKind",
    "DeadLetter",
    "DropReason",
    "EvaluatedRound",
    "Event",
    "Fate",
    "FinishReason",
    "Group",
    "Image",
    "Interval",
    "Ledger",
    "LogPosition",
    "Message",
    "OnUnscored",
    "Outcome",
    "Part",
    "PartState",
    "PartStatus",
    "PartitionOffset",
    "PolicyVersion",
    "Progress",
    "Prompt",
    "Reward",
    "RewardSpec",
    "RewardTerm",
    "Rollout",
    "RolloutOutcome",
    "RolloutStatistics",
    "Sampling",
    "Segment",
    "SegmentKind",
    "Split",
    "Status",
    "StepReport",
    "TermMode",
    "VerifierLoad",
    "VersionSpan",
    "Weights",
    "given",
    "sampled",
]

"""Rollouts: what the policy was given and what it sampled, as segments of tokens."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from tristream.wire import identities
from tristream.wire.arrays import LogProbs, Tokens
from tristream.wire.events.samples import Group, Image, Message, Progress, RewardSpec


class FinishReason(StrEnum):
    """Why a rollout ended."""

    STOP = "stop"
    LENGTH = "length"
    ERROR = "error"


class SegmentKind(StrEnum):
    """Where the tokens of a segment come from."""

    GIVEN = "given"
    """Given to the policy: a prompt, the answer of a tool, the next turn of a user."""
    SAMPLED = "sampled"
    """Sampled by the policy; these are trained."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VersionSpan:
    """Tokens ``start`` to ``end`` (exclusive) of a segment were sampled by ``version``."""

    version: int
    start: int
    end: int


NO_LOGPROBS = LogProbs()


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """A run of tokens of one kind."""

    kind: SegmentKind
    tokens: Tokens
    """Token ids with image placeholders expanded."""
    logprobs: LogProbs = NO_LOGPROBS
    """Log-probability of each sampled token under the sampling distribution; none for given ones."""
    version_spans: tuple[VersionSpan, ...] = ()
    """Which policy version sampled which tokens; none for given ones."""
    images: tuple[Image, ...] = ()
    """Images that its placeholders stand for, in order; only in given segments."""

    @property
    def is_sampled(self) -> bool:
        """Whether the policy sampled it."""
        return self.kind is SegmentKind.SAMPLED


def given(tokens: Tokens, images: tuple[Image, ...] = ()) -> Segment:
    """A segment that the policy was given."""
    return Segment(kind=SegmentKind.GIVEN, tokens=tokens, images=images)


def sampled(tokens: Tokens, logprobs: LogProbs, version_spans: tuple[VersionSpan, ...]) -> Segment:
    """A segment that the policy sampled."""
    return Segment(kind=SegmentKind.SAMPLED, tokens=tokens, logprobs=logprobs, version_spans=version_spans)


def images_of(segments: Sequence[Segment]) -> tuple[Image, ...]:
    """The images of segments, in order."""
    return tuple(image for segment in segments for image in segment.images)


def num_tokens_of(segments: Sequence[Segment]) -> int:
    """All tokens of segments, given and sampled."""
    return sum(len(segment.tokens) for segment in segments)


def num_sampled_tokens_of(segments: Sequence[Segment]) -> int:
    """Tokens of segments that the policy sampled."""
    return sum(len(segment.tokens) for segment in segments if segment.is_sampled)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rollout:
    """One rollout with all that verifiers and the learner need."""

    group: Group
    index: int
    segments: tuple[Segment, ...]
    """Its tokens in order: a rollout of one turn has a given segment and a sampled one, a failed one has none."""
    text: str
    """What the policy sampled, as text: the answer that verifiers judge."""
    finish_reason: FinishReason
    prompt_text: str
    reward: RewardSpec
    progress: Progress
    temperature: float
    queued_seconds: float
    generate_seconds: float
    producer: str
    prompt_digest: str = ""
    """Digest of the prompt that it answers."""
    error: str = ""
    """Why there is no answer, in words, if it ended in an error."""
    messages: tuple[Message, ...] = ()
    """The chat messages that were asked, before the template."""
    created_ns: int

    @property
    def id(self) -> str:
        """``GROUP/index``."""
        return identities.rollout_id(self.group.id, self.index)

    @property
    def images(self) -> tuple[Image, ...]:
        """The images of all segments, in order."""
        return images_of(self.segments)

    @property
    def num_prompt_tokens(self) -> int:
        """Tokens given before anything was sampled."""
        first = next((number for number, s in enumerate(self.segments) if s.is_sampled), len(self.segments))
        return num_tokens_of(self.segments[:first])

    @property
    def num_tokens(self) -> int:
        """All tokens, given and sampled."""
        return num_tokens_of(self.segments)

    @property
    def num_sampled_tokens(self) -> int:
        """Tokens that the policy sampled."""
        return num_sampled_tokens_of(self.segments)

    @property
    def oldest_version(self) -> int:
        """Oldest policy version among the tokens; -1 if nothing was sampled."""
        return min((span.version for segment in self.segments for span in segment.version_spans), default=-1)

    @property
    def newest_version(self) -> int:
        """Newest policy version among the tokens; -1 if nothing was sampled."""
        return max((span.version for segment in self.segments for span in segment.version_spans), default=-1)

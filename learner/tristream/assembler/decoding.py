"""Decoding: facts straight from the bytes of records, which costs a fraction of decoding whole events.

A record that cannot be what its topic says is refused here as everywhere, and becomes a dead letter.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from typing import Any, NoReturn

from tristream.assembler.facts import (
    OutcomeFact,
    PromptFact,
    RewardFact,
    RolloutFact,
    StatusFact,
    join_rollout,
    join_score,
)
from tristream.outcomes.v1 import outcome_pb2
from tristream.parts.v1 import part_status_pb2
from tristream.prompts.v1 import prompt_pb2
from tristream.rewards.v1 import reward_pb2
from tristream.rollouts.v1 import rollout_pb2
from tristream.runtime.claims import claimed_epoch
from tristream.samples.v1 import sample_pb2
from tristream.wire.arrays import ITEM_BYTES, LogProbs, Tokens
from tristream.wire.codecs.base import Codec, MalformedEventError, enum_from_number, require
from tristream.wire.codecs.rollouts import segment_from_message
from tristream.wire.codecs.samples import group_from_message, reward_spec_from_message
from tristream.wire.events import (
    Fate,
    FinishReason,
    Group,
    Part,
    Segment,
    SegmentKind,
    Status,
    VersionSpan,
    given,
    sampled,
)
from tristream.wire.topics import OUTCOMES, PARTS, PROMPTS, REWARDS, ROLLOUTS, Topic

NUM_CACHED_GROUPS = 4096
"""Identities of groups that are kept once, for as many records as name them."""

NUM_CACHED_PROMPTS = 64
"""Prompts whose tokens are kept once while their rollouts come."""
GIVEN, SAMPLED = rollout_pb2.SEGMENT_KIND_GIVEN, rollout_pb2.SEGMENT_KIND_SAMPLED


def _prompt_from_bytes(data: bytes) -> PromptFact:
    message = prompt_pb2.Prompt.FromString(data)
    return PromptFact(
        group=_group(message.group), definition=reward_spec_from_message(message.reward), digest=message.digest
    )


def _rollout_from_bytes(data: bytes) -> RolloutFact:
    message = rollout_pb2.Rollout.FromString(data)
    group = _group(message.group)
    index = message.index
    if not 0 <= index < group.size:
        require(False, f"rollout has index {index} in a group of {group.size}")
    segments = tuple([_segment(segment) for segment in message.segments])
    if segments and (segments[0].kind is not SegmentKind.GIVEN or not segments[0].tokens.data):
        require(False, "rollout does not begin with given tokens")
    digest = message.prompt_digest
    return RolloutFact(
        group=group,
        digest=digest,
        definition=None if digest else reward_spec_from_message(message.reward),
        rollout=join_rollout(
            index=index,
            segments=segments,
            temperature=message.temperature,
            finish_reason=_finish_reason(message.finish_reason),
            group=group,
        ),
    )


def _segment(message: rollout_pb2.Segment) -> Segment:
    """The segment, by the shortest way for the usual ones: a prompt without images, and what was sampled."""
    tokens = message.tokens
    if tokens.dtype == Tokens.dtype and not message.images:
        if message.kind == SAMPLED:
            return _sampled(message, tokens.data, message.logprobs) or segment_from_message(message)
        if message.kind == GIVEN and not message.version_spans and not message.HasField("logprobs"):
            return _known_prompt(tokens.data)
    return segment_from_message(message)


def _sampled(message: rollout_pb2.Segment, tokens: bytes, logprobs: rollout_pb2.Array) -> Segment | None:
    """The segment; None if something about it is not as it should be."""
    if logprobs.dtype != LogProbs.dtype or len(logprobs.data) != len(tokens) or len(tokens) % ITEM_BYTES:
        return None
    values = LogProbs(logprobs.data)
    num_tokens = len(tokens) // ITEM_BYTES
    spans = [(span.version, span.start, span.end) for span in message.version_spans]
    if not values.is_finite or not all(0 <= start < end <= num_tokens for _, start, end in spans):
        return None
    named = tuple([VersionSpan(version=version, start=start, end=end) for version, start, end in spans])
    return sampled(Tokens(tokens), values, named)


@lru_cache(NUM_CACHED_PROMPTS)
def _known_prompt(data: bytes) -> Segment:
    try:
        return given(Tokens(data))
    except ValueError as error:
        raise MalformedEventError(str(error)) from None


def _reward_from_bytes(data: bytes) -> RewardFact:
    message = reward_pb2.Reward.FromString(data)
    group = _group(message.group)
    index, term_id, version = message.index, message.term_id, message.version
    if not (term_id and version):
        require(False, "reward has no term_id or no version")
    if not 0 <= index < group.size:
        require(False, f"reward has index {index} in a group of {group.size}")
    score = join_score(_status(message.status), message.components, message.abstained)
    return RewardFact(group=group, index=index, term_id=_shared(term_id), version=_shared(version), score=score)


def _outcome_from_bytes(data: bytes) -> OutcomeFact:
    message = outcome_pb2.Outcome.FromString(data)
    return OutcomeFact(group=_group(message.group), fate=_fate(message.fate), step=message.step)


def _status_from_bytes(data: bytes) -> StatusFact:
    message = part_status_pb2.PartStatus.FromString(data)
    part = enum_from_number(Part, message.part, "PART", part_status_pb2.Part.Name)
    return StatusFact(
        run=message.run,
        part=part,
        instance=message.instance,
        epoch=message.epoch,
        claimed_epoch=claimed_epoch(message.measures),
        created_ns=message.created_ns,
    )


def _group(message: sample_pb2.Group) -> Group:
    return _known_group(
        message.run,
        message.split,
        message.number,
        message.eval_step,
        message.eval_attempt,
        message.source,
        message.sample_id,
        message.size,
    )


@lru_cache(NUM_CACHED_GROUPS)
def _known_group(
    run: str,
    split: "sample_pb2.Split.ValueType",
    number: int,
    eval_step: int,
    eval_attempt: int,
    source: str,
    sample_id: str,
    size: int,
) -> Group:
    return group_from_message(
        sample_pb2.Group(
            run=run,
            split=split,
            number=number,
            eval_step=eval_step,
            eval_attempt=eval_attempt,
            source=source,
            sample_id=sample_id,
            size=size,
        )
    )


@lru_cache(256)
def _shared(text: str) -> str:
    return text


@lru_cache(16)
def _status(number: "reward_pb2.Status.ValueType") -> Status:
    return enum_from_number(Status, number, "STATUS", reward_pb2.Status.Name)


@lru_cache(16)
def _finish_reason(number: "rollout_pb2.FinishReason.ValueType") -> FinishReason:
    return enum_from_number(FinishReason, number, "FINISH_REASON", rollout_pb2.FinishReason.Name)


@lru_cache(16)
def _fate(number: "outcome_pb2.Fate.ValueType") -> Fate:
    return enum_from_number(Fate, number, "FATE", outcome_pb2.Fate.Name)


def _is_only_read(_fact: object) -> NoReturn:
    raise TypeError("facts are read from the log and never written")


def _read_as(topic: Topic[Any], from_bytes: Callable[[bytes], Any]) -> Topic[Any]:
    to_message: Any = _is_only_read
    return replace(topic, codec=Codec(to_message, from_bytes))


PROMPT_FACTS: Topic[PromptFact] = _read_as(PROMPTS, _prompt_from_bytes)
ROLLOUT_FACTS: Topic[RolloutFact] = _read_as(ROLLOUTS, _rollout_from_bytes)
REWARD_FACTS: Topic[RewardFact] = _read_as(REWARDS, _reward_from_bytes)
OUTCOME_FACTS: Topic[OutcomeFact] = _read_as(OUTCOMES, _outcome_from_bytes)
STATUS_FACTS: Topic[StatusFact] = _read_as(PARTS, _status_from_bytes)
FACT_TOPICS: tuple[Topic[Any], ...] = (PROMPT_FACTS, ROLLOUT_FACTS, REWARD_FACTS, OUTCOME_FACTS, STATUS_FACTS)
"""All that the assembler reads."""

"""Codecs between events and protobuf: the only module with field by field code.

Every codec is total on valid events and raises ``MalformedEventError`` on anything else, so that a
bad record reaches the dead letter topic with its reason instead of a half-filled event.
"""

import sys
from array import array
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Generic, TypeVar

from google.protobuf.message import DecodeError
from google.protobuf.message import Message as ProtobufMessage

from tristream.deadletter.v1 import dead_letter_pb2
from tristream.outcomes.v1 import outcome_pb2
from tristream.policy.v1 import policy_version_pb2
from tristream.prompts.v1 import prompt_pb2
from tristream.registry.v1 import verifier_state_pb2
from tristream.rewards.v1 import reward_pb2
from tristream.rollouts.v1 import rollout_pb2
from tristream.samples.v1 import sample_pb2
from tristream.steps.v1 import step_report_pb2
from tristream.wire import events

EventT = TypeVar("EventT")
EnumT = TypeVar("EnumT", bound=StrEnum)


class MalformedEventError(ValueError):
    """A record that is not a valid event; the text says why."""


@dataclass(frozen=True, slots=True)
class Codec(Generic[EventT]):
    """How one kind of event becomes bytes and comes back."""

    to_message: Callable[[EventT], ProtobufMessage]
    from_bytes: Callable[[bytes], EventT]

    def encode(self, event: EventT) -> bytes:
        """Deterministic protobuf bytes of the event."""
        return self.to_message(event).SerializeToString(deterministic=True)

    def decode(self, data: bytes) -> EventT:
        """The event in the bytes.

        Raises:
            MalformedEventError: the bytes are not a valid event of this kind.
        """
        try:
            return self.from_bytes(data)
        except DecodeError as error:
            raise MalformedEventError(f"not protobuf of this topic: {error}") from None


def enum_from_number(kind: type[EnumT], number: int, prefix: str, name_of: Callable[[Any], str]) -> EnumT:
    """Our enum value of a protobuf number.

    Raises:
        MalformedEventError: the number is unset or unknown.
    """
    try:
        value: EnumT = kind[name_of(number).removeprefix(f"{prefix}_")]
    except (KeyError, ValueError):
        raise MalformedEventError(f"{prefix.lower()} has no value {number}") from None
    return value


def require(condition: bool, reason: str) -> None:
    """Raise MalformedEventError with the reason unless the condition holds."""
    if not condition:
        raise MalformedEventError(reason)


# Arrays ------------------------------------------------------------------------------------------


def pack_array(values: tuple[int, ...] | tuple[float, ...], dtype: str) -> rollout_pb2.Array:
    """Pack numbers as little-endian ``i4`` or ``f4`` bytes."""
    packed = array("i" if dtype == "i4" else "f", values)
    if sys.byteorder == "big":
        packed.byteswap()
    return rollout_pb2.Array(dtype=dtype, data=packed.tobytes())


def unpack_integers(message: rollout_pb2.Array) -> tuple[int, ...]:
    """Unpack an ``i4`` array."""
    return tuple(_unpack(message, "i4", "i"))


def unpack_floats(message: rollout_pb2.Array) -> tuple[float, ...]:
    """Unpack an ``f4`` array."""
    return tuple(_unpack(message, "f4", "f"))


def _unpack(message: rollout_pb2.Array, dtype: str, typecode: str) -> "array[Any]":
    require(message.dtype == dtype, f"array has dtype '{message.dtype}', wanted '{dtype}'")
    require(len(message.data) % 4 == 0, f"array of {len(message.data)} bytes is not whole {dtype} elements")
    values: array[Any] = array(typecode)
    values.frombytes(message.data)
    if sys.byteorder == "big":
        values.byteswap()
    return values


# Samples -----------------------------------------------------------------------------------------


def group_to_message(group: events.Group) -> sample_pb2.Group:
    """Group as protobuf."""
    return sample_pb2.Group(
        run=group.run,
        split=sample_pb2.Split.Value(f"SPLIT_{group.split.name}"),
        number=group.number,
        eval_step=group.eval_step,
        source=group.source,
        sample_id=group.sample_id,
        size=group.size,
    )


def group_from_message(message: sample_pb2.Group) -> events.Group:
    """Group from protobuf."""
    require(bool(message.run), "group has no run")
    require(bool(message.source), "group has no source")
    require(message.size >= 1, f"group has size {message.size}")
    require(message.number >= 0, f"group has number {message.number}")
    return events.Group(
        run=message.run,
        split=enum_from_number(events.Split, message.split, "SPLIT", sample_pb2.Split.Name),
        number=message.number,
        eval_step=message.eval_step,
        source=message.source,
        sample_id=message.sample_id,
        size=message.size,
    )


def image_to_message(image: events.Image) -> sample_pb2.Image:
    """Image as protobuf."""
    return sample_pb2.Image(
        media_type=image.media_type,
        sha256=image.sha256,
        size_bytes=image.size_bytes,
        data=image.data,
        uri=image.uri,
    )


def image_from_message(message: sample_pb2.Image) -> events.Image:
    """Image from protobuf."""
    require(bool(message.data) != bool(message.uri), "image must have either data or uri")
    return events.Image(
        media_type=message.media_type,
        sha256=message.sha256,
        size_bytes=message.size_bytes,
        data=message.data,
        uri=message.uri,
    )


def _reward_spec_to_message(spec: events.RewardSpec) -> sample_pb2.RewardSpec:
    return sample_pb2.RewardSpec(
        terms=[
            sample_pb2.RewardTerm(verifier=term.verifier, weights=term.weights, params_json=term.params_json)
            for term in spec.terms
        ],
        combine=sample_pb2.Combine.Value(f"COMBINE_{spec.combine.name}"),
        on_unscored=sample_pb2.OnUnscored.Value(f"ON_UNSCORED_{spec.on_unscored.name}"),
        ground_truth=spec.ground_truth,
    )


def _reward_spec_from_message(message: sample_pb2.RewardSpec) -> events.RewardSpec:
    require(len(message.terms) >= 1, "reward has no terms")
    return events.RewardSpec(
        terms=tuple(
            events.RewardTerm(verifier=term.verifier, weights=dict(term.weights), params_json=term.params_json)
            for term in message.terms
        ),
        combine=enum_from_number(events.Combine, message.combine, "COMBINE", sample_pb2.Combine.Name),
        on_unscored=enum_from_number(events.OnUnscored, message.on_unscored, "ON_UNSCORED", sample_pb2.OnUnscored.Name),
        ground_truth=message.ground_truth,
    )


def _progress_to_message(progress: events.Progress) -> sample_pb2.Progress:
    return sample_pb2.Progress(step=progress.step, total_steps=progress.total_steps)


def _progress_from_message(message: sample_pb2.Progress) -> events.Progress:
    require(message.total_steps >= 1, "progress has no total_steps")
    return events.Progress(step=message.step, total_steps=message.total_steps)


def _weights_to_message(weights: events.Weights) -> policy_version_pb2.Weights:
    return policy_version_pb2.Weights(version=weights.version, uri=weights.uri, sha256=weights.sha256)


def _weights_from_message(message: policy_version_pb2.Weights) -> events.Weights:
    require(bool(message.uri), "weights have no uri")
    return events.Weights(version=message.version, uri=message.uri, sha256=message.sha256)


# Prompts -----------------------------------------------------------------------------------------


def _prompt_to_message(prompt: events.Prompt) -> prompt_pb2.Prompt:
    sampling = prompt.sampling
    pinned = prompt.pinned_weights
    return prompt_pb2.Prompt(
        group=group_to_message(prompt.group),
        messages=[sample_pb2.Message(role=m.role, content=m.content) for m in prompt.messages],
        images=[image_to_message(image) for image in prompt.images],
        reward=_reward_spec_to_message(prompt.reward),
        sampling=prompt_pb2.Sampling(
            temperature=sampling.temperature, top_p=sampling.top_p, max_tokens=sampling.max_tokens, seed=sampling.seed
        ),
        progress=_progress_to_message(prompt.progress),
        pinned_weights=None if pinned is None else _weights_to_message(pinned),
        created_ns=prompt.created_ns,
    )


def _prompt_from_bytes(data: bytes) -> events.Prompt:
    message = prompt_pb2.Prompt.FromString(data)
    require(len(message.messages) >= 1, "prompt has no messages")
    sampling = message.sampling
    return events.Prompt(
        group=group_from_message(message.group),
        messages=tuple(events.Message(role=m.role, content=m.content) for m in message.messages),
        images=tuple(image_from_message(image) for image in message.images),
        reward=_reward_spec_from_message(message.reward),
        sampling=events.Sampling(
            temperature=sampling.temperature, top_p=sampling.top_p, max_tokens=sampling.max_tokens, seed=sampling.seed
        ),
        progress=_progress_from_message(message.progress),
        pinned_weights=(_weights_from_message(message.pinned_weights) if message.HasField("pinned_weights") else None),
        created_ns=message.created_ns,
    )


# Rollouts ----------------------------------------------------------------------------------------


def _rollout_to_message(rollout: events.Rollout) -> rollout_pb2.Rollout:
    return rollout_pb2.Rollout(
        group=group_to_message(rollout.group),
        index=rollout.index,
        prompt_tokens=pack_array(rollout.prompt_tokens, "i4"),
        completion_tokens=pack_array(rollout.completion_tokens, "i4"),
        logprobs=pack_array(rollout.logprobs, "f4"),
        version_spans=[
            rollout_pb2.VersionSpan(version=span.version, start=span.start, end=span.end)
            for span in rollout.version_spans
        ],
        text=rollout.text,
        finish_reason=rollout_pb2.FinishReason.Value(f"FINISH_REASON_{rollout.finish_reason.name}"),
        images=[image_to_message(image) for image in rollout.images],
        prompt_text=rollout.prompt_text,
        reward=_reward_spec_to_message(rollout.reward),
        progress=_progress_to_message(rollout.progress),
        temperature=rollout.temperature,
        timings=rollout_pb2.Timings(queued_seconds=rollout.queued_seconds, generate_seconds=rollout.generate_seconds),
        producer=rollout.producer,
        created_ns=rollout.created_ns,
    )


def _rollout_from_bytes(data: bytes) -> events.Rollout:
    message = rollout_pb2.Rollout.FromString(data)
    group = group_from_message(message.group)
    completion_tokens = unpack_integers(message.completion_tokens)
    logprobs = unpack_floats(message.logprobs)
    require(0 <= message.index < group.size, f"rollout has index {message.index} in a group of {group.size}")
    require(
        len(completion_tokens) == len(logprobs),
        f"rollout has {len(completion_tokens)} completion tokens and {len(logprobs)} logprobs",
    )
    return events.Rollout(
        group=group,
        index=message.index,
        prompt_tokens=unpack_integers(message.prompt_tokens),
        completion_tokens=completion_tokens,
        logprobs=logprobs,
        version_spans=tuple(
            events.VersionSpan(version=span.version, start=span.start, end=span.end) for span in message.version_spans
        ),
        text=message.text,
        finish_reason=enum_from_number(
            events.FinishReason, message.finish_reason, "FINISH_REASON", rollout_pb2.FinishReason.Name
        ),
        images=tuple(image_from_message(image) for image in message.images),
        prompt_text=message.prompt_text,
        reward=_reward_spec_from_message(message.reward),
        progress=_progress_from_message(message.progress),
        temperature=message.temperature,
        queued_seconds=message.timings.queued_seconds,
        generate_seconds=message.timings.generate_seconds,
        producer=message.producer,
        created_ns=message.created_ns,
    )


# Rewards -----------------------------------------------------------------------------------------


def _reward_to_message(reward: events.Reward) -> reward_pb2.Reward:
    return reward_pb2.Reward(
        group=group_to_message(reward.group),
        index=reward.index,
        verifier=reward.verifier,
        version=reward.version,
        status=reward_pb2.Status.Value(f"STATUS_{reward.status.name}"),
        detail=reward.detail,
        components=reward.components,
        metrics=reward.metrics,
        params_json=reward.params_json,
        queued_seconds=reward.queued_seconds,
        score_seconds=reward.score_seconds,
        created_ns=reward.created_ns,
    )


def _reward_from_bytes(data: bytes) -> events.Reward:
    message = reward_pb2.Reward.FromString(data)
    require(bool(message.verifier), "reward has no verifier")
    return events.Reward(
        group=group_from_message(message.group),
        index=message.index,
        verifier=message.verifier,
        version=message.version,
        status=enum_from_number(events.Status, message.status, "STATUS", reward_pb2.Status.Name),
        detail=message.detail,
        components=dict(message.components),
        metrics=dict(message.metrics),
        params_json=message.params_json,
        queued_seconds=message.queued_seconds,
        score_seconds=message.score_seconds,
        created_ns=message.created_ns,
    )


# Outcomes ----------------------------------------------------------------------------------------


def rollout_outcome_to_message(rollout: events.RolloutOutcome) -> outcome_pb2.RolloutOutcome:
    """Outcome of one rollout as protobuf."""
    return outcome_pb2.RolloutOutcome(
        index=rollout.index, valid=rollout.valid, reward=rollout.reward, advantage=rollout.advantage
    )


def rollout_outcome_from_message(message: outcome_pb2.RolloutOutcome) -> events.RolloutOutcome:
    """Outcome of one rollout from protobuf."""
    return events.RolloutOutcome(
        index=message.index, valid=message.valid, reward=message.reward, advantage=message.advantage
    )


def outcome_to_message(outcome: events.Outcome) -> outcome_pb2.Outcome:
    """Outcome as protobuf."""
    return outcome_pb2.Outcome(
        group=group_to_message(outcome.group),
        fate=outcome_pb2.Fate.Value(f"FATE_{outcome.fate.name}"),
        step=outcome.step,
        reason=outcome.reason,
        rollouts=[rollout_outcome_to_message(rollout) for rollout in outcome.rollouts],
        oldest_version=outcome.oldest_version,
        created_ns=outcome.created_ns,
    )


def outcome_from_message(message: outcome_pb2.Outcome) -> events.Outcome:
    """Outcome from protobuf."""
    fate = enum_from_number(events.Fate, message.fate, "FATE", outcome_pb2.Fate.Name)
    require(fate is not events.Fate.DROPPED or bool(message.reason), "dropped outcome has no reason")
    return events.Outcome(
        group=group_from_message(message.group),
        fate=fate,
        step=message.step,
        reason=message.reason,
        rollouts=tuple(rollout_outcome_from_message(rollout) for rollout in message.rollouts),
        oldest_version=message.oldest_version,
        created_ns=message.created_ns,
    )


# Policy ------------------------------------------------------------------------------------------


def intervals_to_messages(intervals: tuple[events.Interval, ...]) -> list[policy_version_pb2.Interval]:
    """Intervals as protobuf."""
    return [policy_version_pb2.Interval(start=interval.start, end=interval.end) for interval in intervals]


def intervals_from_messages(messages: Iterable[policy_version_pb2.Interval]) -> tuple[events.Interval, ...]:
    """Intervals from protobuf."""
    return tuple(events.Interval(start=message.start, end=message.end) for message in messages)


def _policy_to_message(policy: events.PolicyVersion) -> policy_version_pb2.PolicyVersion:
    return policy_version_pb2.PolicyVersion(
        run=policy.run,
        weights=_weights_to_message(policy.weights),
        total_steps=policy.total_steps,
        settled=intervals_to_messages(policy.settled),
        dropped=intervals_to_messages(policy.dropped),
        created_ns=policy.created_ns,
    )


def _policy_from_bytes(data: bytes) -> events.PolicyVersion:
    message = policy_version_pb2.PolicyVersion.FromString(data)
    return events.PolicyVersion(
        run=message.run,
        weights=_weights_from_message(message.weights),
        total_steps=message.total_steps,
        settled=intervals_from_messages(message.settled),
        dropped=intervals_from_messages(message.dropped),
        created_ns=message.created_ns,
    )


# Steps -------------------------------------------------------------------------------------------


def _step_to_message(report: events.StepReport) -> step_report_pb2.StepReport:
    return step_report_pb2.StepReport(
        run=report.run,
        step=report.step,
        total_steps=report.total_steps,
        metrics=report.metrics,
        layer_grad_norms=report.layer_grad_norms,
        phase_seconds=report.phase_seconds,
        rollouts=[
            step_report_pb2.RolloutStatistics(
                group_number=rollout.group_number,
                index=rollout.index,
                mean_logprob=rollout.mean_logprob,
                mean_entropy=rollout.mean_entropy,
                clip_fraction=rollout.clip_fraction,
                mean_kl=rollout.mean_kl,
            )
            for rollout in report.rollouts
        ],
        num_completion_tokens=report.num_completion_tokens,
        num_groups=report.num_groups,
        max_age=report.max_age,
        created_ns=report.created_ns,
    )


def _step_from_bytes(data: bytes) -> events.StepReport:
    message = step_report_pb2.StepReport.FromString(data)
    require(message.step >= 1, f"step report has step {message.step}")
    return events.StepReport(
        run=message.run,
        step=message.step,
        total_steps=message.total_steps,
        metrics=dict(message.metrics),
        layer_grad_norms=dict(message.layer_grad_norms),
        phase_seconds=dict(message.phase_seconds),
        rollouts=tuple(
            events.RolloutStatistics(
                group_number=rollout.group_number,
                index=rollout.index,
                mean_logprob=rollout.mean_logprob,
                mean_entropy=rollout.mean_entropy,
                clip_fraction=rollout.clip_fraction,
                mean_kl=rollout.mean_kl,
            )
            for rollout in message.rollouts
        ),
        num_completion_tokens=message.num_completion_tokens,
        num_groups=message.num_groups,
        max_age=message.max_age,
        created_ns=message.created_ns,
    )


# Verifiers and dead letters ----------------------------------------------------------------------


def _verifier_to_message(state: events.VerifierState) -> verifier_state_pb2.VerifierState:
    return verifier_state_pb2.VerifierState(
        run=state.run,
        verifier=state.verifier,
        version=state.version,
        mode=verifier_state_pb2.Mode.Value(f"MODE_{state.mode.name}"),
        sources=state.sources,
        num_scored=state.num_scored,
        num_restarts=state.num_restarts,
        heartbeat_ns=state.heartbeat_ns,
    )


def _verifier_from_bytes(data: bytes) -> events.VerifierState:
    message = verifier_state_pb2.VerifierState.FromString(data)
    require(bool(message.verifier), "verifier state has no verifier")
    return events.VerifierState(
        run=message.run,
        verifier=message.verifier,
        version=message.version,
        mode=enum_from_number(events.Mode, message.mode, "MODE", verifier_state_pb2.Mode.Name),
        sources=tuple(message.sources),
        num_scored=message.num_scored,
        num_restarts=message.num_restarts,
        heartbeat_ns=message.heartbeat_ns,
    )


def _dead_letter_to_message(letter: events.DeadLetter) -> dead_letter_pb2.DeadLetter:
    return dead_letter_pb2.DeadLetter(
        run=letter.run,
        topic=letter.topic,
        partition=letter.partition,
        offset=letter.offset,
        key=letter.key,
        value=letter.value,
        headers=letter.headers,
        error=letter.error,
        part=letter.part,
        created_ns=letter.created_ns,
    )


def _dead_letter_from_bytes(data: bytes) -> events.DeadLetter:
    message = dead_letter_pb2.DeadLetter.FromString(data)
    return events.DeadLetter(
        run=message.run,
        topic=message.topic,
        partition=message.partition,
        offset=message.offset,
        key=message.key,
        value=message.value,
        headers=dict(message.headers),
        error=message.error,
        part=message.part,
        created_ns=message.created_ns,
    )


PROMPT = Codec(_prompt_to_message, _prompt_from_bytes)
ROLLOUT = Codec(_rollout_to_message, _rollout_from_bytes)
REWARD = Codec(_reward_to_message, _reward_from_bytes)
OUTCOME = Codec(outcome_to_message, lambda data: outcome_from_message(outcome_pb2.Outcome.FromString(data)))
POLICY = Codec(_policy_to_message, _policy_from_bytes)
STEP = Codec(_step_to_message, _step_from_bytes)
VERIFIER = Codec(_verifier_to_message, _verifier_from_bytes)
DEAD_LETTER = Codec(_dead_letter_to_message, _dead_letter_from_bytes)

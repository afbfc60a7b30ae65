"""Codecs of what a sample is."""

import re
from collections.abc import Iterable, Sequence
from functools import lru_cache

from tristream.samples.v1 import sample_pb2
from tristream.wire import events
from tristream.wire.codecs.base import enum_from_number, require, require_finite

HEX_PATTERN = re.compile(r"[0-9a-f]+")
NUM_SHARED = 1024
"""Groups and definitions of reward that are kept to be shared: those of records that follow one another."""


def group_to_message(group: events.Group) -> sample_pb2.Group:
    """Group as protobuf."""
    return sample_pb2.Group(
        run=group.run,
        split=sample_pb2.Split.Value(f"SPLIT_{group.split.name}"),
        number=group.number,
        eval_step=group.eval_step,
        eval_attempt=group.eval_attempt,
        source=group.source,
        sample_id=group.sample_id,
        size=group.size,
    )


def group_from_message(message: sample_pb2.Group) -> events.Group:
    """Group from protobuf; the rollouts and rewards of a group share it."""
    return _group_from_bytes(message.SerializeToString())


@lru_cache(maxsize=NUM_SHARED)
def _group_from_bytes(data: bytes) -> events.Group:
    message = sample_pb2.Group.FromString(data)
    require(bool(message.run), "group has no run")
    require(bool(message.source), "group has no source")
    require(message.size >= 1, f"group has size {message.size}")
    require(message.number >= 0, f"group has number {message.number}")
    return events.Group(
        run=message.run,
        split=enum_from_number(events.Split, message.split, "SPLIT", sample_pb2.Split.Name),
        number=message.number,
        eval_step=message.eval_step,
        eval_attempt=message.eval_attempt,
        source=message.source,
        sample_id=message.sample_id,
        size=message.size,
    )


def messages_to_message(messages: Sequence[events.Message]) -> list[sample_pb2.Message]:
    """Chat messages as protobuf."""
    return [sample_pb2.Message(role=message.role, content=message.content) for message in messages]


def messages_from_message(messages: Iterable[sample_pb2.Message]) -> tuple[events.Message, ...]:
    """Chat messages from protobuf."""
    return tuple(events.Message(role=message.role, content=message.content) for message in messages)


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
    require(HEX_PATTERN.fullmatch(message.sha256) is not None, f"image has sha256 '{message.sha256[:80]}'")
    return events.Image(
        media_type=message.media_type,
        sha256=message.sha256,
        size_bytes=message.size_bytes,
        data=message.data,
        uri=message.uri,
    )


def reward_spec_to_message(spec: events.RewardSpec) -> sample_pb2.RewardSpec:
    """Definition of reward as protobuf."""
    return sample_pb2.RewardSpec(
        terms=[_term_to_message(term) for term in spec.terms],
        combine=sample_pb2.Combine.Value(f"COMBINE_{spec.combine.name}"),
        on_unscored=sample_pb2.OnUnscored.Value(f"ON_UNSCORED_{spec.on_unscored.name}"),
        ground_truth=spec.ground_truth,
        columns_json=spec.columns_json,
    )


def reward_spec_from_message(message: sample_pb2.RewardSpec) -> events.RewardSpec:
    """Definition of reward from protobuf; the rollouts of a group share it."""
    return _reward_spec_from_bytes(message.SerializeToString(deterministic=True))


@lru_cache(maxsize=NUM_SHARED)
def _reward_spec_from_bytes(data: bytes) -> events.RewardSpec:
    message = sample_pb2.RewardSpec.FromString(data)
    require(len(message.terms) >= 1, "reward has no terms")
    terms = tuple(_term_from_message(term) for term in message.terms)
    require(len({term.id for term in terms}) == len(terms), "reward has two terms of one id")
    return events.RewardSpec(
        terms=terms,
        combine=enum_from_number(events.Combine, message.combine, "COMBINE", sample_pb2.Combine.Name),
        on_unscored=enum_from_number(events.OnUnscored, message.on_unscored, "ON_UNSCORED", sample_pb2.OnUnscored.Name),
        ground_truth=message.ground_truth,
        columns_json=message.columns_json or "{}",
    )


def _term_to_message(term: events.RewardTerm) -> sample_pb2.RewardTerm:
    return sample_pb2.RewardTerm(
        id=term.id,
        verifier=term.verifier,
        version=term.version,
        weights=term.weights,
        params_json=term.params_json,
        mode=mode_to_number(term.mode),
    )


def _term_from_message(message: sample_pb2.RewardTerm) -> events.RewardTerm:
    require(bool(message.id), "reward term has no id")
    require(bool(message.verifier), f"reward term {message.id} has no verifier")
    require(bool(message.version), f"reward term {message.id} has no version")
    weights = dict(message.weights)
    require_finite("a weight of a reward term", *weights.values())
    return events.RewardTerm(
        id=message.id,
        verifier=message.verifier,
        version=message.version,
        weights=weights,
        params_json=message.params_json,
        mode=mode_from_number(message.mode),
    )


def mode_to_number(mode: events.TermMode) -> "sample_pb2.TermMode.ValueType":
    """Mode of a term as protobuf."""
    return sample_pb2.TermMode.Value(f"TERM_MODE_{mode.name}")


def mode_from_number(number: int) -> events.TermMode:
    """Mode of a term from protobuf."""
    return enum_from_number(events.TermMode, number, "TERM_MODE", sample_pb2.TermMode.Name)


def progress_to_message(progress: events.Progress) -> sample_pb2.Progress:
    """Progress as protobuf."""
    return sample_pb2.Progress(step=progress.step, total_steps=progress.total_steps)


def progress_from_message(message: sample_pb2.Progress) -> events.Progress:
    """Progress from protobuf."""
    require(message.total_steps >= 1, "progress has no total_steps")
    return events.Progress(step=message.step, total_steps=message.total_steps)

"""Codec of rewards."""

from tristream.rewards.v1 import reward_pb2
from tristream.wire import events
from tristream.wire.codecs.base import Codec, enum_from_number, require, require_finite
from tristream.wire.codecs.samples import group_from_message, group_to_message, mode_from_number, mode_to_number


def _reward_to_message(reward: events.Reward) -> reward_pb2.Reward:
    return reward_pb2.Reward(
        group=group_to_message(reward.group),
        index=reward.index,
        term_id=reward.term_id,
        mode=mode_to_number(reward.mode),
        verifier=reward.verifier,
        version=reward.version,
        status=reward_pb2.Status.Value(f"STATUS_{reward.status.name}"),
        detail=reward.detail,
        components=reward.components,
        abstained=reward.abstained,
        metrics=reward.metrics,
        params_json=reward.params_json,
        queued_seconds=reward.queued_seconds,
        score_seconds=reward.score_seconds,
        created_ns=reward.created_ns,
    )


def _reward_from_bytes(data: bytes) -> events.Reward:
    message = reward_pb2.Reward.FromString(data)
    for name in ("term_id", "verifier", "version"):
        require(bool(getattr(message, name)), f"reward has no {name}")
    group = group_from_message(message.group)
    require(0 <= message.index < group.size, f"reward has index {message.index} in a group of {group.size}")
    components, metrics = dict(message.components), dict(message.metrics)
    require_finite("a component or metric of a reward", *components.values(), *metrics.values())
    return events.Reward(
        group=group,
        index=message.index,
        term_id=message.term_id,
        mode=mode_from_number(message.mode),
        verifier=message.verifier,
        version=message.version,
        status=enum_from_number(events.Status, message.status, "STATUS", reward_pb2.Status.Name),
        detail=message.detail,
        components=components,
        abstained=tuple(message.abstained),
        metrics=metrics,
        params_json=message.params_json,
        queued_seconds=message.queued_seconds,
        score_seconds=message.score_seconds,
        created_ns=message.created_ns,
    )


REWARD = Codec(_reward_to_message, _reward_from_bytes)

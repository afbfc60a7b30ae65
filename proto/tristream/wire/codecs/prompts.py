"""Codec of prompts."""

from tristream.prompts.v1 import prompt_pb2
from tristream.wire import events
from tristream.wire.codecs.base import Codec, require, require_finite
from tristream.wire.codecs.policies import weights_from_message, weights_to_message
from tristream.wire.codecs.samples import (
    group_from_message,
    group_to_message,
    image_from_message,
    image_to_message,
    messages_from_message,
    messages_to_message,
    progress_from_message,
    progress_to_message,
    reward_spec_from_message,
    reward_spec_to_message,
)


def _prompt_to_message(prompt: events.Prompt) -> prompt_pb2.Prompt:
    pinned = prompt.pinned_weights
    return prompt_pb2.Prompt(
        group=group_to_message(prompt.group),
        messages=messages_to_message(prompt.messages),
        images=[image_to_message(image) for image in prompt.images],
        reward=reward_spec_to_message(prompt.reward),
        sampling=_sampling_to_message(prompt.sampling),
        progress=progress_to_message(prompt.progress),
        pinned_weights=None if pinned is None else weights_to_message(pinned),
        run_fingerprint=prompt.run_fingerprint,
        digest=prompt.digest,
        created_ns=prompt.created_ns,
    )


def _prompt_from_bytes(data: bytes) -> events.Prompt:
    message = prompt_pb2.Prompt.FromString(data)
    require(len(message.messages) >= 1, "prompt has no messages")
    return events.Prompt(
        group=group_from_message(message.group),
        messages=messages_from_message(message.messages),
        images=tuple(image_from_message(image) for image in message.images),
        reward=reward_spec_from_message(message.reward),
        sampling=_sampling_from_message(message.sampling),
        progress=progress_from_message(message.progress),
        pinned_weights=(weights_from_message(message.pinned_weights) if message.HasField("pinned_weights") else None),
        run_fingerprint=message.run_fingerprint,
        digest=message.digest,
        created_ns=message.created_ns,
    )


def _sampling_to_message(sampling: events.Sampling) -> prompt_pb2.Sampling:
    return prompt_pb2.Sampling(
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        max_tokens=sampling.max_tokens,
        seed=sampling.seed,
        top_k=sampling.top_k,
        min_p=sampling.min_p,
        stop=sampling.stop,
        stop_token_ids=sampling.stop_token_ids,
    )


def _sampling_from_message(message: prompt_pb2.Sampling) -> events.Sampling:
    require_finite("temperature, top_p or min_p", message.temperature, message.top_p, message.min_p)
    return events.Sampling(
        temperature=message.temperature,
        top_p=message.top_p,
        max_tokens=message.max_tokens,
        seed=message.seed,
        top_k=message.top_k,
        min_p=message.min_p,
        stop=tuple(message.stop),
        stop_token_ids=tuple(message.stop_token_ids),
    )


PROMPT = Codec(_prompt_to_message, _prompt_from_bytes)

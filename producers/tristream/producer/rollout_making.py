"""Rollouts as pure functions of a prompt and what came of it."""

import time

from tristream.policy.prompt_encoder import EncodedPrompt
from tristream.producer.engines.protocol import Completion, Request
from tristream.wire.events import FinishReason, Prompt, Rollout, Sampling
from tristream.wire.identities import rollout_id
from tristream.wire.seeds import derive_seed


def make_request(prompt: Prompt, encoded: EncodedPrompt, images: tuple[bytes, ...], index: int) -> Request:
    """What the engine is asked for the ``index``-th rollout of a prompt."""
    sampling = prompt.sampling
    return Request(
        id=rollout_id(prompt.group.id, index),
        prompt_tokens=encoded.tokens,
        images=images,
        sampling=Sampling(
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            max_tokens=sampling.max_tokens,
            seed=derive_seed(sampling.seed, index),
        ),
    )


def make_rollout(
    prompt: Prompt, index: int, encoded: EncodedPrompt, completion: Completion, *, text: str, producer: str
) -> Rollout:
    """The rollout of a completion."""
    return Rollout(
        group=prompt.group,
        index=index,
        prompt_tokens=encoded.tokens,
        completion_tokens=completion.tokens,
        logprobs=completion.logprobs,
        version_spans=completion.version_spans,
        text=text,
        finish_reason=completion.finish_reason,
        images=prompt.images,
        prompt_text=encoded.text,
        reward=prompt.reward,
        progress=prompt.progress,
        temperature=prompt.sampling.temperature,
        queued_seconds=max(0.0, (completion.started_ns - prompt.created_ns) / 1e9),
        generate_seconds=completion.generate_seconds,
        producer=producer,
        created_ns=time.time_ns(),
    )


def make_failed_rollout(prompt: Prompt, index: int, *, producer: str) -> Rollout:
    """The empty rollout of a prompt that cannot be answered, so that its group is settled all the same."""
    now_ns = time.time_ns()
    return Rollout(
        group=prompt.group,
        index=index,
        prompt_tokens=(),
        completion_tokens=(),
        logprobs=(),
        version_spans=(),
        text="",
        finish_reason=FinishReason.ERROR,
        images=prompt.images,
        prompt_text="",
        reward=prompt.reward,
        progress=prompt.progress,
        temperature=prompt.sampling.temperature,
        queued_seconds=max(0.0, (now_ns - prompt.created_ns) / 1e9),
        generate_seconds=0.0,
        producer=producer,
        created_ns=now_ns,
    )

"""Rollouts as pure functions of a prompt and what came of it."""

import time
from collections.abc import Sequence

from tristream.policy.prompt_encoder import EncodedPrompt
from tristream.producer.engines.protocol import Completion, GenerationRequest
from tristream.wire.events import FinishReason, Prompt, Rollout, Sampling, Segment, sampled
from tristream.wire.identities import rollout_id
from tristream.wire.seeds import derive_seed


def make_request(prompt: Prompt, encoded: EncodedPrompt, images: tuple[bytes, ...], index: int) -> GenerationRequest:
    """What the engine is asked for the ``index``-th rollout of a prompt."""
    sampling = prompt.sampling
    return GenerationRequest(
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
    prompt: Prompt,
    index: int,
    turns: Sequence[Segment | Completion],
    *,
    prompt_text: str,
    text: str,
    producer: str,
) -> Rollout:
    """The rollout of a prompt and the completions that followed.

    Args:
        prompt: what was asked.
        index: which of the group's rollouts it is.
        turns: what the policy was given and what it sampled, in order, such as prompt, completion, answer of a
            tool, completion; at least one completion.
        prompt_text: the rendered chat template.
        text: what was sampled, as text.
        producer: who sampled it.
    """
    completions = [turn for turn in turns if isinstance(turn, Completion)]
    return Rollout(
        group=prompt.group,
        index=index,
        segments=tuple(turn if isinstance(turn, Segment) else _sampled_segment(turn) for turn in turns),
        text=text,
        finish_reason=completions[-1].finish_reason,
        prompt_text=prompt_text,
        reward=prompt.reward,
        progress=prompt.progress,
        temperature=prompt.sampling.temperature,
        queued_seconds=max(0.0, (completions[0].started_ns - prompt.created_ns) / 1e9),
        generate_seconds=sum(completion.generate_seconds for completion in completions),
        producer=producer,
        created_ns=time.time_ns(),
    )


def make_failed_rollout(prompt: Prompt, index: int, *, producer: str) -> Rollout:
    """The empty rollout of a prompt that cannot be answered, so that its group is settled all the same."""
    now_ns = time.time_ns()
    return Rollout(
        group=prompt.group,
        index=index,
        segments=(),
        text="",
        finish_reason=FinishReason.ERROR,
        prompt_text="",
        reward=prompt.reward,
        progress=prompt.progress,
        temperature=prompt.sampling.temperature,
        queued_seconds=max(0.0, (now_ns - prompt.created_ns) / 1e9),
        generate_seconds=0.0,
        producer=producer,
        created_ns=now_ns,
    )


def _sampled_segment(completion: Completion) -> Segment:
    return sampled(completion.tokens, completion.logprobs, completion.version_spans)

"""Rollouts as pure functions of a prompt and what came of it."""

import json
import math
import time
from collections.abc import Sequence
from dataclasses import replace

from tristream.policy.images import PolicyInputError
from tristream.producer.engines.protocol import Completion
from tristream.producer.environments.contract import Sample
from tristream.producer.environments.conversation import Conversation
from tristream.wire.events import FinishReason, Prompt, Rollout, Sampling
from tristream.wire.seeds import derive_seed

MAX_REASON_CHARACTERS = 500
"""Longer reasons are cut: they are for people."""


def check_sampling(sampling: Sampling) -> None:
    """See whether anything can be sampled as a prompt asks for it.

    Raises:
        PolicyInputError: nothing can.
    """
    is_sound = (
        0 <= sampling.temperature < math.inf
        and 0 < sampling.top_p <= 1
        and sampling.top_k >= 0
        and 0 <= sampling.min_p < 1
        and sampling.max_tokens >= 1
    )
    if not is_sound:
        raise PolicyInputError(
            f"nothing can be sampled at temperature {sampling.temperature:g}, top_p {sampling.top_p:g}, "
            f"top_k {sampling.top_k} and min_p {sampling.min_p:g} with {sampling.max_tokens} tokens at most"
        )


def sampling_of(prompt: Prompt, index: int) -> Sampling:
    """How the ``index``-th rollout of a prompt is sampled: as the others, with a seed of its own."""
    return replace(prompt.sampling, seed=derive_seed(prompt.sampling.seed, index))


def make_sample(prompt: Prompt, index: int) -> Sample:
    """What the environment of the ``index``-th rollout is told of its row.

    Raises:
        ValueError: the columns are no JSON object.
    """
    columns = json.loads(prompt.reward.columns_json or "{}")
    if not isinstance(columns, dict):
        raise ValueError("the columns of the row are no JSON object")
    return Sample(
        sample_id=prompt.group.sample_id,
        source=prompt.group.source,
        split=prompt.group.split.value,
        messages=prompt.messages,
        ground_truth=prompt.reward.ground_truth,
        columns=columns,
        seed=sampling_of(prompt, index).seed,
        step=prompt.progress.step,
        total_steps=prompt.progress.total_steps,
    )


def make_rollout(prompt: Prompt, index: int, conversation: Conversation, *, producer: str) -> Rollout:
    """The rollout of a prompt and the conversation that followed.

    Args:
        prompt: what was asked.
        index: which of the group's rollouts it is.
        conversation: what the policy was given and what it sampled, in order, such as prompt, completion, answer of a
            tool, completion; at least one completion.
        producer: who sampled it.
    """
    return Rollout(
        group=prompt.group,
        index=index,
        segments=conversation.segments,
        text=conversation.text,
        finish_reason=conversation.finish_reason,
        prompt_text=conversation.prompt_text,
        reward=prompt.reward,
        progress=prompt.progress,
        temperature=prompt.sampling.temperature,
        queued_seconds=max(0.0, (conversation.started_ns - prompt.created_ns) / 1e9),
        generate_seconds=conversation.generate_seconds,
        producer=producer,
        prompt_digest=prompt.digest,
        messages=conversation.messages,
        created_ns=time.time_ns(),
    )


def why_no_rollout(completions: Sequence[Completion]) -> str | None:
    """Why nothing could be learned from the turns of a rollout, in words; None if they are sound."""
    if not completions:
        return "its environment ended before the policy answered"
    return next((reason for completion in completions if (reason := why_unusable(completion)) is not None), None)


def why_unusable(completion: Completion) -> str | None:
    """Why nothing could be learned from a completion, in words; None if it is sound."""
    if not completion.tokens:
        return "the engine sampled no token"
    if len(completion.logprobs) != len(completion.tokens):
        return f"the engine sampled {len(completion.tokens)} tokens and gave {len(completion.logprobs)} probabilities"
    if not completion.logprobs.is_finite:
        return f"the engine gave log-probabilities that are no numbers, with weights {_versions(completion)}"
    return None


def make_failed_rollout(prompt: Prompt, index: int, *, producer: str, error: str) -> Rollout:
    """The empty rollout of a prompt that cannot be answered, so that its group is settled all the same.

    Args:
        prompt: what was asked.
        index: which of the group's rollouts it is.
        producer: who tried.
        error: why there is no answer, in words; what no record can hold is replaced, and a long text is cut.
    """
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
        prompt_digest=prompt.digest,
        error=error[:MAX_REASON_CHARACTERS].encode(errors="replace").decode(),
        created_ns=now_ns,
    )


def without_truth(rollout: Rollout) -> Rollout:
    """A failed rollout without what verifiers are given, which for once may be too large for a record."""
    terms = tuple(replace(term, params_json="") for term in rollout.reward.terms)
    return replace(rollout, reward=replace(rollout.reward, terms=terms, ground_truth=""))


def describe(error: BaseException) -> str:
    """An error in one line."""
    text = " ".join(str(error).split())
    return text or type(error).__name__


def _versions(completion: Completion) -> str:
    return "of version " + ", ".join(str(version) for version in sorted({s.version for s in completion.version_spans}))

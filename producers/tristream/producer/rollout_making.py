"""Rollouts as pure functions of a prompt and what came of it."""

import math
import time
from collections.abc import Sequence
from dataclasses import replace

from tristream.policy.images import PolicyInputError
from tristream.policy.prompt_encoder import EncodedPrompt
from tristream.producer.engines.protocol import Completion, GenerationRequest
from tristream.wire.events import FinishReason, Prompt, Rollout, Sampling, Segment, sampled
from tristream.wire.identities import rollout_id
from tristream.wire.seeds import derive_seed

MAX_REASON_CHARACTERS = 500
"""Longer reasons are cut: they are for people."""


def make_request(prompt: Prompt, encoded: EncodedPrompt, images: tuple[bytes, ...], index: int) -> GenerationRequest:
    """What the engine is asked for the ``index``-th rollout of a prompt.

    Raises:
        PolicyInputError: nothing can be sampled as the prompt asks for it.
    """
    sampling = prompt.sampling
    if not 0 <= sampling.temperature < math.inf or not 0 < sampling.top_p <= 1 or sampling.max_tokens < 1:
        raise PolicyInputError(
            f"nothing can be sampled at temperature {sampling.temperature:g} and top_p {sampling.top_p:g} "
            f"with {sampling.max_tokens} tokens at most"
        )
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
        prompt_digest=prompt.digest,
        messages=prompt.messages,
        created_ns=time.time_ns(),
    )


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


def _sampled_segment(completion: Completion) -> Segment:
    return sampled(completion.tokens, completion.logprobs, completion.version_spans)


def _versions(completion: Completion) -> str:
    return "of version " + ", ".join(str(version) for version in sorted({s.version for s in completion.version_spans}))

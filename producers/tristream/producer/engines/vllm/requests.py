"""Requests as vLLM takes them, and what it answers as completions; pure but for the clock."""

import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from tristream.policy.images import PolicyInputError, read_pixels
from tristream.policy.prompt_encoder import PromptEncoder
from tristream.policy.tokens import excluded_token_ids
from tristream.producer.engines.protocol import Completion, GenerationRequest
from tristream.producer.engines.stopping import StoppingRules
from tristream.wire.arrays import LogProbs, Tokens
from tristream.wire.events import FinishReason, Sampling, VersionSpan

LOWEST_TEMPERATURE, HIGHEST_TEMPERATURE = 0.01, 2.0
"""vLLM raises lower ones, other than 0, and refuses higher ones."""
FIRST_AND_LAST = 2**30
"""Tokens between two messages about a request: there is one about its first token, and one at its end."""


@dataclass(slots=True, kw_only=True)
class Sampled:
    """What vLLM has said about one request so far."""

    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)

    def add(self, output: Any) -> None:  # noqa: ANN401 - vLLM is not installed where types are checked
        """Take the new tokens of a ``CompletionOutput``."""
        self.tokens.extend(output.token_ids)
        flat = output.logprobs
        if flat is not None:
            self.logprobs.extend(flat.logprobs[start] for start in flat.start_indices)


def sampling_arguments(sampling: Sampling, encoder: PromptEncoder, stopping: StoppingRules) -> dict[str, Any]:
    """The arguments of ``SamplingParams``.

    Raises:
        PolicyInputError: vLLM would sample otherwise.
    """
    if sampling.temperature != 0 and not LOWEST_TEMPERATURE <= sampling.temperature <= HIGHEST_TEMPERATURE:
        raise PolicyInputError(
            f"vLLM takes 0 and {LOWEST_TEMPERATURE} to {HIGHEST_TEMPERATURE} as temperature, not {sampling.temperature}"
        )
    rule = stopping.of(sampling)
    excluded = excluded_token_ids(encoder.config)
    return {
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "top_k": sampling.top_k,
        "min_p": sampling.min_p,
        "seed": sampling.seed,
        "max_tokens": sampling.max_tokens,
        "stop": list(rule.texts),
        "stop_token_ids": sorted(rule.token_ids),
        "include_stop_str_in_output": True,
        "detokenize": bool(rule.texts),
        "logprobs": 0,
        "flat_logprobs": True,
        "logit_bias": dict.fromkeys(excluded, float("-inf")) or None,
        "stream_interval": FIRST_AND_LAST,
    }


def make_prompt(request: GenerationRequest, max_pixels: int) -> dict[str, Any]:
    """A prompt of token ids, with one placeholder an image, and the images as pixels.

    Raises:
        PolicyInputError: an image is damaged or too large.
    """
    prompt: dict[str, Any] = {"prompt_token_ids": request.prompt_tokens.to_list()}
    if request.images:
        prompt["multi_modal_data"] = {"image": [read_pixels(image, max_pixels) for image in request.images]}
        prompt["multi_modal_uuids"] = {"image": [hashlib.sha256(image).hexdigest() for image in request.images]}
    return prompt


def require_same_prompt(expanded: Tokens, ids: Sequence[int]) -> None:
    """Check that vLLM has read the prompt as the learner reads it.

    Raises:
        PolicyInputError: it has not.
    """
    if expanded != Tokens.of(ids):
        raise PolicyInputError(f"vLLM reads a prompt of {len(ids)} tokens where the learner reads {len(expanded)}")


def finish_reason_of(output: Any) -> FinishReason | None:  # noqa: ANN401 - vLLM is not installed where types are checked
    """Why a ``CompletionOutput`` ended; None if vLLM gave it up."""
    return {"stop": FinishReason.STOP, "length": FinishReason.LENGTH}.get(output.finish_reason)


def spans_of(output: Any, num_tokens: int, version: int) -> tuple[VersionSpan, ...]:  # noqa: ANN401 - as above
    """Which versions sampled the tokens of a ``CompletionOutput``."""
    if not num_tokens:
        return ()
    if not output.weight_versions:
        return (VersionSpan(version=version, start=0, end=num_tokens),)
    return tuple(
        VersionSpan(version=int(span.version), start=span.start, end=span.end)
        for span in output.weight_versions
        if span.end > span.start
    )


def make_completion(
    request: GenerationRequest,
    expanded: Tokens,
    sampled: Sampled,
    spans: tuple[VersionSpan, ...],
    finish_reason: FinishReason,
    metrics: Any,  # noqa: ANN401 - as above
) -> Completion:
    """The completion, timed by vLLM's monotonic clock."""
    begun, ended = metrics.scheduled_ts, metrics.last_token_ts
    return Completion(
        id=request.id,
        prompt_tokens=expanded,
        tokens=Tokens.of(sampled.tokens),
        logprobs=LogProbs.of(sampled.logprobs),
        version_spans=spans,
        finish_reason=finish_reason,
        started_ns=time.time_ns() - int((time.monotonic() - begun) * 1e9),
        generate_seconds=max(0.0, ended - begun),
    )

"""What a producer needs of an inference engine: token ids in, token ids out, fed continuously.

The engine returns the ids that it sampled, never ids from text, and log-probabilities of the very
distribution that it sampled from: only then may a learner use them as those of the behaviour policy.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from tristream.wire.arrays import LogProbs, Tokens
from tristream.wire.events import FinishReason, Sampling, VersionSpan


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationRequest:
    """One completion wanted."""

    id: str
    prompt_tokens: Tokens
    """All tokens so far, given and sampled, with image placeholders expanded."""
    images: tuple[bytes, ...]
    """Encoded images in the order of their placeholders."""
    sampling: Sampling
    """Its seed is the seed of this completion: equal requests give equal completions, whatever else is in work."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """One completion, with what it was sampled by."""

    id: str
    tokens: Tokens
    """Sampled token ids, the stop token included."""
    logprobs: LogProbs
    """Log-probability of each token under the sampling distribution."""
    version_spans: tuple[VersionSpan, ...]
    """Which policy version sampled which tokens."""
    finish_reason: FinishReason
    started_ns: int
    """When its prefill began."""
    generate_seconds: float
    """From the start of its prefill to its last token."""


class Engine(Protocol):
    """An inference engine with one set of weights."""

    @property
    def version(self) -> int | None:
        """Version of the weights; None before any were loaded."""
        ...

    @property
    def num_waiting(self) -> int:
        """Requests submitted and not begun."""
        ...

    @property
    def num_running(self) -> int:
        """Requests begun and not finished."""
        ...

    @property
    def num_free_slots(self) -> int:
        """Requests that could be submitted and begun at once."""
        ...

    def submit(self, request: GenerationRequest) -> None:
        """Queue a request.

        Raises:
            PolicyInputError: this model cannot answer it.
        """
        ...

    def step(self) -> Sequence[Completion]:
        """Go on for a short while; return the completions that finished since the last call.

        Whatever it raises, the requests in work are lost: ``reset`` it, and submit them again.
        """
        ...

    def reset(self) -> None:
        """Forget all requests; the weights stay."""
        ...

    def load_weights(self, version: int, path: Path) -> None:
        """Take the weights of a version from a safetensors file; nothing may be running.

        Raises:
            ValueError: the file does not hold the parameters of this model.
        """
        ...

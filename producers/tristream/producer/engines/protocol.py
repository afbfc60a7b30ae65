"""What a producer needs of an inference engine: token ids in, token ids out, fed continuously.

The engine returns the ids that it sampled, never ids from text, and log-probabilities of the very
distribution that it sampled from: only then may a learner use them as those of the behaviour policy.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from tristream.wire.events import FinishReason, Sampling, VersionSpan


class RequestError(Exception):
    """A request that cannot be answered by this model; others are not affected."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One completion wanted."""

    id: str
    prompt_tokens: tuple[int, ...]
    """Prompt token ids with image placeholders expanded."""
    images: tuple[bytes, ...]
    """Encoded images in the order of their placeholders."""
    sampling: Sampling
    """Its seed is the seed of this completion: equal requests give equal completions, whatever else is in work."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """One completion, with what it was sampled by."""

    id: str
    tokens: tuple[int, ...]
    """Sampled token ids, the stop token included."""
    logprobs: tuple[float, ...]
    """Log-probability of each token under the sampling distribution, in nats."""
    version_spans: tuple[VersionSpan, ...]
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

    def submit(self, request: Request) -> None:
        """Queue a request.

        Raises:
            RequestError: this model cannot answer it.
        """
        ...

    def step(self) -> Sequence[Completion]:
        """Go on for a short while; return the completions that finished since the last call."""
        ...

    def load_weights(self, version: int, path: Path) -> None:
        """Take the weights of a version from a safetensors file; nothing may be running.

        Raises:
            ValueError: the file does not hold the parameters of this model.
        """
        ...

"""What a producer needs of an inference engine: token ids in, token ids out, weights that change while it generates.

    completion = await engine.generate(request)     any number at once, each answered as it finishes
    await engine.update_weights(version, weights)   what is in work goes on, from its next token with the new weights

The engine returns the ids that it sampled, never ids from text, with the version that sampled each of them, and
log-probabilities that a learner may use as those of the behaviour policy: ``log_softmax(logits / temperature)``.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from tristream.wire.arrays import LogProbs, Tokens
from tristream.wire.events import FinishReason, Sampling, VersionSpan


class EngineFailedError(Exception):
    """The engine failed, at no request that it could name: all in work are lost, and it can be asked anew."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationRequest:
    """One completion wanted."""

    id: str
    """Told apart by this among the requests in work."""
    prompt_tokens: Tokens
    """All tokens so far, given and sampled, with one placeholder for each image: the engine expands them."""
    images: tuple[bytes, ...] = ()
    """Encoded images in the order of their placeholders."""
    sampling: Sampling
    """Its seed is the seed of this completion."""
    max_seconds: float | None = None
    """A completion that is in work for longer is cut off, as ``length``, and keeps its tokens."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """One completion, with what it was sampled by."""

    id: str
    prompt_tokens: Tokens
    """The prompt as the model has read it: image placeholders expanded."""
    tokens: Tokens
    """Sampled token ids, with those of the stop that ended it."""
    logprobs: LogProbs
    """Log-probability of each token: ``log_softmax(logits / temperature)``, of all tokens but those that stand for
    images, whatever top_p, top_k and min_p leave out; ``log_softmax(logits)`` if it was greedy."""
    version_spans: tuple[VersionSpan, ...]
    """Which policy version sampled which tokens, without gaps."""
    finish_reason: FinishReason
    started_ns: int
    """When it was begun."""
    generate_seconds: float
    """From its begin to its last token."""


@dataclass(slots=True, kw_only=True)
class EngineCounts:
    """What an engine has done since it was made."""

    sampled_tokens: int = 0
    prompt_tokens: int = 0
    """Tokens of the prompts of all completions."""
    cached_prompt_tokens: int = 0
    """Of these, tokens whose keys and values it had already, of a group's neighbour or an earlier turn."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightsFile:
    """Weights on a disk of this machine."""

    path: Path
    """A safetensors file with the names that the checkpoint has; its checksum was compared."""
    sha256: str = field(default="")
    is_adapter: bool = False
    """Whether they are those of an adapter (LoRA) for the model's own, which stay."""


class Generator(Protocol):
    """Completes prompts; used from one event loop."""

    async def generate(self, request: GenerationRequest) -> Completion:
        """Complete a prompt; one whose task is cancelled is forgotten.

        Equal requests with equal weights give equal completions, whatever else is in work, as far as the engine's
        arithmetic allows.

        Raises:
            PolicyInputError: this model cannot answer it; nothing else is affected.
            EngineFailedError: the engine failed, and with it everything in work.
        """
        ...


class Engine(Generator, Protocol):
    """An inference engine with one set of weights."""

    @property
    def version(self) -> int | None:
        """Version of the weights; None before any were loaded."""
        ...

    @property
    def max_running(self) -> int:
        """Requests that it generates at once; more wait in its queue."""
        ...

    @property
    def num_running(self) -> int:
        """Requests begun and not finished."""
        ...

    @property
    def counts(self) -> EngineCounts:
        """What it has done."""
        ...

    async def update_weights(self, version: int, weights: WeightsFile) -> None:
        """Take the weights of a version; what is in work keeps its tokens and goes on with them.

        No token of a later request is sampled by others, and nothing that was computed with others is reused for it.

        Raises:
            ValueError: they are not those of this model; it keeps the ones it has.
            EngineFailedError: the engine failed, and with it everything in work.
        """
        ...

    async def close(self) -> None:
        """End all that it started; what is in work is forgotten."""
        ...

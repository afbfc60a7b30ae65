"""What is asked of a server, and what it answers, whatever it calls them: token ids in, token ids out."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from tristream.wire.events import Sampling

NO_LOGPROB = -9999.0
"""What vLLM sends in place of a log-probability that is infinite or no number."""


class ServerError(Exception):
    """A server did not do what it was asked; another one may, or the same one later."""


class ServerLostError(ServerError):
    """It was not reached, closed the connection, sent nothing for too long, or says that it is not there (503)."""


class ServerBusyError(ServerError):
    """It has too much to do (429)."""


class ServerFailedError(ServerError):
    """It answered with an error of its own."""


class WeightsRefusedError(ServerFailedError):
    """It did not load weights."""


class BadAnswerError(ServerFailedError):
    """It answered what is no answer: no JSON, fields that are missing or do not fit each other."""


class RequestRefusedError(ServerError):
    """It will never take such a request (4xx)."""

    def __init__(self, text: str, status: int) -> None:
        super().__init__(text)
        self.status = status


@dataclass(frozen=True, slots=True, kw_only=True)
class TokensWanted:
    """One request for tokens."""

    prompt: Sequence[int]
    """All tokens so far, with one placeholder for each image."""
    images: tuple[bytes, ...] = ()
    sampling: Sampling
    excluded: tuple[int, ...] = ()
    """Tokens that have probability 0."""
    num_top_logprobs: int = 0
    """How many of the most likely tokens' log-probabilities are wanted beside the sampled one's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VersionLabels:
    """Which weights sampled tokens ``start`` to ``end`` (exclusive) of an answer, as the server calls them."""

    label: str
    start: int
    end: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """A part of an answer."""

    tokens: Sequence[int] = ()
    logprobs: Sequence[float] = ()
    """One for each token."""
    prompt_tokens: Sequence[int] | None = None
    """The prompt as the server has read it, if this part says it."""
    num_cached_prompt_tokens: int = 0
    """Tokens of the prompt that the server had in its cache, as far as it says so."""
    finish_reason: str | None = None
    """``stop``, ``length``, ``abort``, or None if more is to come."""
    version_labels: tuple[VersionLabels, ...] | None = None
    """Which weights sampled the answer up to here, if this part says it."""
    top_logprobs: Sequence[float] = ()
    """Log-probabilities of the most likely tokens in the place of the first one, descending, if they were wanted."""


class Wire(Protocol):
    """How a server is asked for tokens."""

    @property
    def path(self) -> str:
        """Where requests go."""
        ...

    @property
    def takes_images(self) -> bool:
        """Whether images may come with token ids."""
        ...

    def body(self, wanted: TokensWanted, model: str) -> dict[str, Any]:
        """A request as JSON, answered as a stream."""
        ...

    def read(self, event: Mapping[str, Any], num_before: int) -> Chunk:
        """One event of the stream, after ``num_before`` tokens.

        Raises:
            LookupError: a field is missing.
            TypeError: a field has another type.
            ValueError: a field has another form.
        """
        ...


def read_event(wire: Wire, data: bytes, num_before: int) -> Chunk:
    """One event of a stream, checked.

    Raises:
        BadAnswerError: it is none.
        RequestRefusedError: the server refuses the request in its stream.
        ServerFailedError: the server failed at it.
    """
    try:
        event = json.loads(data)
        require_no_error(event)
        chunk = wire.read(event, num_before)
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise BadAnswerError(f"its answer cannot be read ({error}): {data[:100]!r}") from None
    if len(chunk.tokens) != len(chunk.logprobs):
        raise BadAnswerError(f"it sent {len(chunk.tokens)} tokens with {len(chunk.logprobs)} log-probabilities")
    if not all(isinstance(token, int) and 0 <= token < 2**31 for token in chunk.tokens):
        raise BadAnswerError(f"it sent tokens that are none: {list(chunk.tokens)[:10]}")
    return chunk


def require_no_error(event: Mapping[str, Any]) -> None:
    """Check that an event is not an error, which a server that has begun to answer cannot say by a status.

    Raises:
        RequestRefusedError: the server refuses the request.
        ServerFailedError: the server failed.
    """
    error = event.get("error")
    if not error:
        return
    text = str(error.get("message", error)) if isinstance(error, dict) else str(error)
    status = error.get("code") if isinstance(error, dict) else None
    if isinstance(status, int) and 400 <= status < 500:
        raise RequestRefusedError(text, status)
    raise ServerFailedError(text)


def as_logprobs(values: Sequence[float]) -> list[float]:
    """Log-probabilities as numbers; those that the server could not say are NaN.

    Raises:
        TypeError: one of them is no number.
    """
    return [math.nan if value <= NO_LOGPROB else float(value) for value in values]

"""A small engine that is real but for its model: it samples from a table that the version chooses.

It has slots and a queue, takes time for each token, changes its weights between tokens, and fails where it is told to.
For what a producer does with an engine; what an engine has to do is said by ``engine_contract``.
"""

import asyncio
import random
import time
from collections.abc import Callable

from tristream.policy.images import PolicyInputError
from tristream.policy.prompt_encoder import PromptEncoder
from tristream.producer.engines.protocol import (
    Completion,
    EngineCounts,
    EngineFailedError,
    GenerationRequest,
    WeightsFile,
)
from tristream.wire.arrays import LogProbs, Tokens
from tristream.wire.events import FinishReason, VersionSpan

LOGPROB = -2.0
FIRST_TOKEN, LAST_TOKEN = 40, 200
"""Tokens that it samples, all letters to the tiny tokenizer of the tests."""
MOST_TOKENS = 250


class TableEngine:
    """Samples ``max_tokens`` tokens for each request, ``tokens_of`` can say otherwise.

    Args:
        encoder: expands prompts.
        max_running: slots.
        token_seconds: how long a token takes.
        tokens_of: how many tokens a request gets, instead of all that it may.
        fails_at: requests at which it fails, and with them everything in work.
    """

    def __init__(
        self,
        encoder: PromptEncoder,
        *,
        max_running: int = 8,
        token_seconds: float = 0.0,
        tokens_of: Callable[[GenerationRequest], int] | None = None,
        fails_at: Callable[[GenerationRequest], bool] = lambda _request: False,
    ) -> None:
        self.version: int | None = None
        self.max_running = max_running
        self.num_running = 0
        self.counts = EngineCounts()
        self.updates: list[int] = []
        """Versions that it has taken, in order."""
        self.most_running = 0
        self.update_seconds = 0.0
        self.is_closed = False
        self._encoder = encoder
        self._token_seconds = token_seconds
        self._tokens_of = tokens_of or (lambda request: request.sampling.max_tokens)
        self._fails_at = fails_at
        self._slots = asyncio.Semaphore(max_running)
        self._failures: list[asyncio.Future[None]] = []

    async def generate(self, request: GenerationRequest) -> Completion:
        """Complete a prompt, token by token."""
        if len(request.prompt_tokens) + request.sampling.max_tokens > MOST_TOKENS:
            raise PolicyInputError("the prompt and its answer are longer than the model")
        async with self._slots:
            self.num_running += 1
            self.most_running = max(self.most_running, self.num_running)
            failure: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._failures.append(failure)
            try:
                return await self._sample(request, failure)
            finally:
                self._failures.remove(failure)
                self.num_running -= 1

    async def update_weights(self, version: int, weights: WeightsFile) -> None:
        """Take a version; its weights are only read."""
        if not weights.path.read_bytes():
            raise ValueError("the file is empty")
        await asyncio.sleep(self.update_seconds)
        self.version = version
        self.updates.append(version)

    async def close(self) -> None:
        """Remember that it was closed."""
        self.is_closed = True

    async def _sample(self, request: GenerationRequest, failure: "asyncio.Future[None]") -> Completion:
        if self._fails_at(request):
            await asyncio.sleep(0.01)
            for other in self._failures:
                if not other.done():
                    other.set_result(None)
        started, started_ns = time.monotonic(), time.time_ns()
        rng, tokens, versions = random.Random(request.sampling.seed), [], []
        finish = FinishReason.STOP if self._tokens_of(request) < request.sampling.max_tokens else FinishReason.LENGTH
        for _ in range(min(self._tokens_of(request), request.sampling.max_tokens)):
            await asyncio.sleep(self._token_seconds)
            if failure.done():
                raise EngineFailedError("out of\nmemory")
            assert self.version is not None
            versions.append(self.version)
            tokens.append((rng.randrange(1000) + 31 * self.version) % (LAST_TOKEN - FIRST_TOKEN) + FIRST_TOKEN)
            if request.max_seconds is not None and time.monotonic() - started > request.max_seconds:
                finish = FinishReason.LENGTH
                break
        self.counts.sampled_tokens += len(tokens)
        self.counts.prompt_tokens += len(request.prompt_tokens)
        return Completion(
            id=request.id,
            prompt_tokens=self._encoder.expand(request.prompt_tokens, request.images),
            tokens=Tokens.of(tokens),
            logprobs=LogProbs.of([LOGPROB] * len(tokens)),
            version_spans=spans_of(versions),
            finish_reason=finish,
            started_ns=started_ns,
            generate_seconds=time.monotonic() - started,
        )


def spans_of(versions: list[int]) -> tuple[VersionSpan, ...]:
    """Spans of tokens, each with the version that sampled it."""
    starts = [n for n, version in enumerate(versions) if n == 0 or versions[n - 1] != version]
    ends = [*starts[1:], len(versions)]
    return tuple(
        VersionSpan(version=versions[start], start=start, end=end) for start, end in zip(starts, ends, strict=True)
    )

"""The engine on servers elsewhere: several of them behind one producer, any of which may go and come back.

    request --> bounded --> server that has read its beginning --> stream of tokens --> completion
                   ^                       |
                   +-- tokens so far <-----+  lost, busy, failed, or ended by new weights

A request goes on from its tokens at another server, or at the same one later. It is sampled by its seed, so that one
that is asked twice has one answer.
"""

import asyncio
import os
import time
from functools import lru_cache
from pathlib import Path
from urllib.parse import urlsplit

from tristream.config.engines import OpenaiEngineSection
from tristream.config.model import ModelSection
from tristream.policy.images import PolicyInputError, read_pixels
from tristream.policy.prompt_encoder import PromptEncoder
from tristream.policy.tokens import excluded_token_ids
from tristream.producer.engines.openai.asking import Asker
from tristream.producer.engines.openai.fleet import Fleet
from tristream.producer.engines.openai.partial import PartialCompletion
from tristream.producer.engines.openai.probing import URLS
from tristream.producer.engines.openai.servers import FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS, TargetWeights
from tristream.producer.engines.openai.weights import WeightsFolders
from tristream.producer.engines.openai.wire import (
    RequestRefusedError,
    ServerBusyError,
    ServerError,
    ServerLostError,
)
from tristream.producer.engines.protocol import (
    Completion,
    EngineCounts,
    EngineFailedError,
    GenerationRequest,
    WeightsFile,
)
from tristream.producer.engines.weights_check import (
    checkpoint_shapes,
    is_head_tied,
    read_shapes,
    require_weights_of,
)
from tristream.runtime.errors import UserError
from tristream.wire.events import FinishReason

MOST_FAILURES = 6
"""Answers in a row, with no token among them, until a request counts as failed."""
INPUT_STATUSES = (400, 413, 422)
"""How servers say that a request is wrong."""
CHECKED_IMAGES = 64
"""Images that were decoded are remembered: those of a group are equal."""


class OpenaiEngine:
    """Generates at servers; see ``tristream.producer.engines.protocol.Engine``."""

    def __init__(self, section: OpenaiEngineSection, model: ModelSection, encoder: PromptEncoder, *, key: str) -> None:
        self._section = section
        self._encoder = encoder
        self._model_path = model.path
        self._key = key
        self._asker = Asker(encoder)
        self._places = asyncio.Semaphore(section.max_batch_size)
        self._folders = WeightsFolders(section.weights_folder)
        self._fleet: Fleet | None = None
        self._num_targets = 0
        self._version: int | None = None
        self._num_running = 0
        self._counts = EngineCounts()
        self._check_image = lru_cache(CHECKED_IMAGES)(_require_whole)

    @property
    def version(self) -> int | None:
        """Version of the weights of all servers that are asked."""
        return self._version

    @property
    def max_running(self) -> int:
        """Requests in flight, all servers together."""
        return self._section.max_batch_size

    @property
    def num_running(self) -> int:
        """Requests begun and not finished."""
        return self._num_running

    @property
    def counts(self) -> EngineCounts:
        """What it has done."""
        return self._counts

    @property
    def problem(self) -> str:
        """Which servers are not asked, and why, in words; empty if all are."""
        return "" if self._fleet is None else self._fleet.problem

    async def generate(self, request: GenerationRequest) -> Completion:
        """Complete a prompt; it waits while no server can be asked."""
        if self._fleet is None:
            raise EngineFailedError("the servers have no weights")
        if not request.prompt_tokens:
            raise PolicyInputError("the prompt is empty")
        expanded = self._encoder.expand(request.prompt_tokens, request.images)
        for image in request.images:
            await asyncio.to_thread(self._check_image, image, self._encoder.max_image_pixels)
        async with self._places:
            self._num_running += 1
            try:
                partial = PartialCompletion(request=request, expanded_prompt=expanded)
                return await self._complete(self._fleet, partial)
            finally:
                self._num_running -= 1

    async def update_weights(self, version: int, weights: WeightsFile) -> None:
        """Give all servers other weights; what is in work goes on with them."""
        if weights.is_adapter:
            raise ValueError("servers are given whole weights, no adapters")
        await asyncio.to_thread(self._require_own, weights.path)
        if self._fleet is None:
            config = self._encoder.config
            self._fleet = Fleet(
                self._section,
                key=self._key,
                excluded=excluded_token_ids(config),
                has_vision=self._encoder.has_vision,
            )
        number, self._num_targets = self._num_targets, self._num_targets + 1
        path = await asyncio.to_thread(self._folders.make, number, weights.path)
        await self._fleet.load(TargetWeights(number=number, version=version, path=path))
        self._version = version
        self._folders.remove_before(number)

    async def close(self) -> None:
        """Forget what is in work, leave the servers, and remove what was put beside the weights."""
        if self._fleet is not None:
            await self._fleet.close()
        self._folders.remove_before(self._num_targets)

    async def _complete(self, fleet: Fleet, partial: PartialCompletion) -> Completion:
        started_ns, started = time.time_ns(), time.perf_counter()
        limit = partial.request.max_seconds
        deadline = None if limit is None else asyncio.get_running_loop().time() + limit
        try:
            reason = await self._sample(fleet, partial, deadline)
        except TimeoutError:
            reason = FinishReason.LENGTH
        self._counts.sampled_tokens += len(partial.tokens)
        self._counts.prompt_tokens += len(partial.expanded_prompt)
        self._counts.cached_prompt_tokens += min(partial.num_cached_prompt_tokens, len(partial.expanded_prompt))
        return partial.finish(reason, started_ns, time.perf_counter() - started)

    async def _sample(self, fleet: Fleet, partial: PartialCompletion, deadline: float | None) -> FinishReason:
        """Ask servers, one after the other, until the completion is whole.

        Raises:
            TimeoutError: the deadline is over.
            EngineFailedError: no server can be asked for too long, or every answer is none.
            PolicyInputError: the request cannot be answered.
        """
        num_failures, pause_seconds, avoided = 0, FIRST_PAUSE_SECONDS, ""
        while True:
            num_before = len(partial.tokens)
            server = await fleet.find(partial.all_tokens, deadline, avoided)
            try:
                reason = await self._asker.ask(server, partial, deadline)
                if reason is not None:
                    fleet.remember(partial.all_tokens, server)
                    return reason
                continue
            except RequestRefusedError as error:
                if error.status in INPUT_STATUSES:
                    raise PolicyInputError(f"refused by the server: {error}") from None
                problem: ServerError = error
            except ServerLostError as error:
                fleet.lose(server, str(error))
                problem = error
            except ServerError as error:
                problem = error
            if len(partial.tokens) > num_before:
                num_failures, pause_seconds = 0, FIRST_PAUSE_SECONDS
            num_failures += not isinstance(problem, ServerBusyError)
            if num_failures >= MOST_FAILURES:
                raise EngineFailedError(
                    f"a request failed {num_failures} times in a row, the last time at {server.url}: {problem}"
                )
            avoided = server.url
            async with asyncio.timeout_at(deadline):
                await asyncio.sleep(pause_seconds)
            pause_seconds = min(2 * pause_seconds, LONGEST_PAUSE_SECONDS)

    def _require_own(self, path: Path) -> None:
        config = self._encoder.config
        expected = checkpoint_shapes(self._model_path)
        require_weights_of(expected, read_shapes(path), path, is_head_tied=is_head_tied(config))


def make_openai_engine(section: OpenaiEngineSection, model: ModelSection, encoder: PromptEncoder) -> OpenaiEngine:
    """The engine of a run file; its servers are asked once there are weights for them.

    Raises:
        UserError: an address is none, or the variable of the key is not set.
    """
    for url in section.urls:
        if urlsplit(url).scheme not in ("http", "https") or not urlsplit(url).hostname:
            raise UserError(f"'{url}' is no address", where=URLS, remedy="give one such as http://127.0.0.1:8000")
    key = os.environ.get(section.api_key_variable, "") if section.api_key_variable else ""
    if section.api_key_variable and not key:
        raise UserError(
            f"the environment variable {section.api_key_variable} is not set",
            where="[rollout.engine] api_key_variable",
            remedy="set it to the servers' key where the producer is started",
        )
    return OpenaiEngine(section, model, encoder, key=key)


def _require_whole(image: bytes, max_pixels: int) -> None:
    """Check that an image is whole: servers say of a damaged one that they failed.

    Raises:
        PolicyInputError: it is damaged or too large.
    """
    read_pixels(image, max_pixels)

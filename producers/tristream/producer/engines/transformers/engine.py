"""An inference engine on transformers, for small machines.

It decodes in a thread of its own, so that the event loop is free while the model computes: requests go to the thread
through a queue, and completions come back as calls of the loop. Nothing is shared between them but what says so.

    event loop:  generate ----inbox----> thread: DecodeCore.step, again and again
                 future  <--call_soon_threadsafe--
"""

import asyncio
import logging
import queue
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch

from tristream.config.engines import TransformersEngineSection
from tristream.config.model import ModelSection
from tristream.policy.prompt_encoder import PromptEncoder
from tristream.producer.engines.protocol import (
    Completion,
    EngineCounts,
    EngineFailedError,
    GenerationRequest,
    WeightsFile,
)
from tristream.producer.engines.stopping import StoppingRules
from tristream.producer.engines.transformers.decode_batch import Row
from tristream.producer.engines.transformers.decode_core import DecodeCore
from tristream.producer.engines.transformers.decoding_policy import DecodingPolicy
from tristream.producer.engines.transformers.policy_check import check_decoding
from tristream.producer.engines.transformers.request_reading import RequestReader

LOG = logging.getLogger("tristream.producer")


def make_transformers_engine(
    section: TransformersEngineSection, model: ModelSection, encoder: PromptEncoder
) -> "TransformersEngine":
    """The engine of a run file, its model loaded; sets how many threads this process computes with.

    Raises:
        UserError: the model cannot be loaded, or is not decoded as it computes itself.
    """
    torch.set_num_threads(section.num_threads)
    policy = DecodingPolicy(model.path, model.precision)
    difference = check_decoding(policy)
    LOG.info("model is loaded on %s, decoding is within %.1g nats of its own forward pass", policy.device, difference)
    return TransformersEngine(encoder, policy, max_running=section.max_batch_size)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Order:
    """Something that the thread is to do between two steps."""

    work: Callable[[], None]
    future: asyncio.Future[None]


class TransformersEngine:
    """An ``Engine`` that decodes all running requests together, one token a step."""

    def __init__(self, encoder: PromptEncoder, policy: DecodingPolicy, *, max_running: int) -> None:
        self._max_running = max_running
        self._core = DecodeCore(policy, max_running=max_running)
        self._reader = RequestReader(encoder)
        self._stopping = StoppingRules(encoder, policy.model.generation_config)
        self._futures: dict[Row, asyncio.Future[Completion]] = {}
        self._inbox: queue.SimpleQueue[Row | _Order | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._is_closed = False

    @property
    def version(self) -> int | None:
        """Version of the weights; None before any were loaded."""
        return self._core.version

    @property
    def max_running(self) -> int:
        """Requests that it generates at once; more wait in its queue."""
        return self._max_running

    @property
    def num_running(self) -> int:
        """Requests begun and not finished."""
        return self._core.num_running

    @property
    def counts(self) -> EngineCounts:
        """What it has done."""
        return replace(self._core.counts)

    async def generate(self, request: GenerationRequest) -> Completion:
        """Complete a prompt; one whose task is cancelled is forgotten.

        Raises:
            PolicyInputError: this model cannot answer it; nothing else is affected.
            EngineFailedError: the engine failed, and with it everything in work.
        """
        if self.version is None:
            raise RuntimeError("no weights were loaded, so completions would have no version")
        prompt = await self._reader.read(request)
        row = Row(request=request, prompt=prompt, stopping=self._stopping.of(request.sampling))
        self._require_thread()
        future: asyncio.Future[Completion] = asyncio.get_running_loop().create_future()
        self._futures[row] = future
        self._inbox.put(row)
        try:
            return await future
        finally:
            # The thread reads it between two tokens; it has no meaning for a row that is finished.
            row.is_cancelled = True
            self._futures.pop(row, None)

    async def update_weights(self, version: int, weights: WeightsFile) -> None:
        """Take the weights of a version; what is in work keeps its tokens and goes on with them.

        Raises:
            ValueError: they are not those of this model; it keeps the ones it has.
            EngineFailedError: the engine failed, and with it everything in work.
        """
        if weights.is_adapter:
            raise ValueError("the transformers engine takes no adapters: give whole weights, or generate with vLLM")
        self._require_thread()
        future = asyncio.get_running_loop().create_future()
        self._inbox.put(_Order(work=partial(self._core.update_weights, version, weights), future=future))
        await future

    async def close(self) -> None:
        """End the thread; what is in work is forgotten."""
        self._is_closed = True
        if self._thread is not None:
            self._inbox.put(None)
            await asyncio.to_thread(self._thread.join)
        for future in self._futures.values():
            _refuse(future, EngineFailedError("the engine was closed"))

    def _require_thread(self) -> None:
        if self._is_closed:
            raise EngineFailedError("the engine is closed")
        if self._thread is None:
            self._thread = threading.Thread(
                target=self._run, args=(asyncio.get_running_loop(),), name="engine", daemon=True
            )
            self._thread.start()

    def _run(self, loop: asyncio.AbstractEventLoop) -> None:
        """The thread: do what came in, then a step, until it is told to end."""

        def call(function: Callable[..., None], *arguments: object) -> None:
            # A loop that was closed without the engine has nobody who waits.
            with suppress(RuntimeError):
                loop.call_soon_threadsafe(function, *arguments)

        while self._take_orders(call):
            try:
                finished = [(row, row.completion()) for row in self._core.step()]
            except Exception as error:  # what a model raises at can be anything, and ends no thread
                self._fail(call, error)
            else:
                if finished:
                    call(self._answer, finished)

    def _take_orders(self, call: Callable[..., None]) -> bool:
        """Do what came in, and wait for something if nothing is in work; False once the thread is to end."""
        while not (self._core.has_work and self._inbox.empty()):
            order = self._inbox.get()
            if order is None:
                return False
            if isinstance(order, Row):
                self._core.submit(order)
                continue
            try:
                order.work()
            except ValueError as error:
                call(_refuse, order.future, error)
            except Exception as error:  # weights may be changed by half
                self._fail(call, error)
                call(_refuse, order.future, _failure(error))
            else:
                call(_settle, order.future)
        return True

    def _fail(self, call: Callable[..., None], error: Exception) -> None:
        LOG.warning("the engine failed, what was in work is lost: %s", error, exc_info=error)
        call(self._lose, self._core.reset(), _failure(error))

    def _answer(self, finished: Sequence[tuple[Row, Completion]]) -> None:
        for row, completion in finished:
            future = self._futures.get(row)
            if future is not None and not future.done():
                future.set_result(completion)

    def _lose(self, rows: Sequence[Row], error: EngineFailedError) -> None:
        for row in rows:
            if row in self._futures:
                _refuse(self._futures[row], error)


def _failure(error: Exception) -> EngineFailedError:
    return EngineFailedError(str(error) or type(error).__name__)


def _settle(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def _refuse(future: asyncio.Future[Any], error: Exception) -> None:
    if not future.done():
        future.set_exception(error)

"""Prompts in, rollouts out: each prompt gets all its rollouts, whatever becomes of it.

A prompt that cannot be answered gets failed rollouts, which say why, and the prompts beside it are answered. An engine
that fails does not say which request did it: then its requests are answered anew, one group after the other, and what
fails alone is to blame.
"""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tristream.policy.prompt_encoder import EncodedPrompt, PromptEncoder
from tristream.producer.engines.protocol import Completion, Engine, GenerationRequest
from tristream.producer.rollout_making import (
    make_failed_rollout,
    make_request,
    make_rollout,
    why_unusable,
    without_truth,
)
from tristream.runtime.bus.protocol import Bus, BusError, EventTooLargeError
from tristream.runtime.errors import StoppedError, TryAgainError
from tristream.runtime.retry import retry
from tristream.runtime.store import BlobStore, StoreUnavailableError
from tristream.wire.events import Prompt, Rollout, given
from tristream.wire.topics import ROLLOUTS

LOG = logging.getLogger("tristream.producer")

FAILURES_IN_A_ROW = 16
"""Groups that fail in the engine one after the other, with none between that is answered, until it counts as broken."""


class _EngineFailedError(Exception):
    """The engine raised; its requests are lost."""


@dataclass(frozen=True, slots=True)
class _Work:
    prompt: Prompt
    index: int
    encoded: EncodedPrompt
    request: GenerationRequest


@dataclass(slots=True)
class Counts:
    """What was done so far."""

    rollouts: int = 0
    tokens: int = 0
    failed_prompts: int = 0
    failed_rollouts: int = 0
    tokens_per_second: float = 0.0


class Answerer:
    """Answers prompts with the weights that the engine has; ``say`` is told what is waited for, or nothing."""

    def __init__(
        self,
        bus: Bus,
        blobs: BlobStore,
        encoder: PromptEncoder,
        engine: Engine,
        *,
        instance: str,
        say: Callable[[str], None],
        stop: threading.Event,
    ) -> None:
        self._bus = bus
        self._blobs = blobs
        self._encoder = encoder
        self._engine = engine
        self._instance = instance
        self._say = say
        self._stop = stop
        self._failures_in_a_row = 0
        self._last_failure = ""
        self.counts = Counts()

    def answer(self, prompts: Sequence[Prompt]) -> None:
        """Publish all rollouts of prompts, or return early if stopped.

        Raises:
            BusError: publishing failed for good.
            StoppedError: told to stop while the store was away.
        """
        work: dict[str, _Work] = {}
        for prompt in prompts:
            self._submit(prompt, work)
        started, num_before = time.monotonic(), self.counts.tokens
        try:
            self._drain(work)
        except _EngineFailedError as error:
            LOG.warning("the engine failed (%s); its prompts are answered one after the other", error)
            self._answer_one_by_one(work)
        num_tokens = self.counts.tokens - num_before
        self.counts.tokens_per_second = num_tokens / max(time.monotonic() - started, 1e-6)

    def fail(self, prompt: Prompt, reason: str) -> None:
        """Publish failed rollouts for all of a prompt."""
        self._fail(prompt, range(prompt.group.size), reason)
        self.counts.failed_prompts += 1

    def require_engine(self) -> None:
        """Check that the engine answers at all; what it failed at is published.

        Raises:
            TryAgainError: it failed at every one of the last prompts.
        """
        if self._failures_in_a_row >= FAILURES_IN_A_ROW:
            raise TryAgainError(
                f"the engine failed at each of the last {self._failures_in_a_row} prompts: {self._last_failure}"
            )

    def _submit(self, prompt: Prompt, work: dict[str, _Work]) -> None:
        try:
            images = retry(
                lambda: tuple(self._blobs.read_image(image) for image in prompt.images),
                errors=(StoreUnavailableError,),
                say=lambda problem: self._say(f"the images of {prompt.group.id}: {problem}"),
                stop=self._stop,
            )
            encoded = self._encoder.encode(prompt.messages, images)
            requests = [make_request(prompt, encoded, images, index) for index in range(prompt.group.size)]
            for request in requests:
                self._engine.submit(request)
        except StoppedError:
            raise
        except Exception as error:  # poison comes in every shape, and concerns this prompt alone
            self.fail(prompt, describe(error))
            return
        work.update((request.id, _Work(prompt, n, encoded, request)) for n, request in enumerate(requests))

    def _drain(self, work: dict[str, _Work]) -> None:
        """Publish what the engine completes until nothing is left, or until stopped."""
        while work and not self._stop.is_set():
            for completion in self._step():
                done = work.pop(completion.id, None)
                if done is not None:
                    self._publish(done, completion)
            self._say("")

    def _step(self) -> Sequence[Completion]:
        try:
            return self._engine.step()
        except Exception as error:  # an engine fails in its own ways, such as for want of memory
            raise _EngineFailedError(describe(error)) from error

    def _answer_one_by_one(self, work: dict[str, _Work]) -> None:
        groups: dict[str, dict[str, _Work]] = {}
        for name, item in work.items():
            groups.setdefault(item.prompt.group.id, {})[name] = item
        for group in groups.values():
            if self._stop.is_set():
                return
            prompt = next(iter(group.values())).prompt
            self._engine.reset()
            try:
                for item in group.values():
                    self._engine.submit(item.request)
                self._drain(group)
            except _EngineFailedError as error:
                self._fail(prompt, [item.index for item in group.values()], f"the engine failed: {error}")
                self.counts.failed_prompts += 1
                self._failures_in_a_row += 1
                self._last_failure = str(error)
        self._engine.reset()

    def _publish(self, work: _Work, completion: Completion) -> None:
        self._failures_in_a_row = 0
        reason = why_unusable(completion)
        if reason is None:
            try:
                self._bus.publish(ROLLOUTS, self._make_rollout(work, completion))
            except (BusError, StoppedError):
                raise
            except Exception as error:  # too large, or text that no record can hold: it concerns this one alone
                reason = describe(error)
        if reason is not None:
            self._fail(work.prompt, [work.index], reason)
            return
        self.counts.rollouts += 1
        self.counts.tokens += len(completion.tokens)

    def _make_rollout(self, work: _Work, completion: Completion) -> Rollout:
        turns = (given(work.encoded.tokens, work.prompt.images), completion)
        text = self._encoder.decode(completion.tokens)
        return make_rollout(
            work.prompt, work.index, turns, prompt_text=work.encoded.text, text=text, producer=self._instance
        )

    def _fail(self, prompt: Prompt, indexes: Sequence[int], reason: str) -> None:
        LOG.warning("prompt %s of source %s cannot be answered: %s", prompt.group.id, prompt.group.source, reason)
        for index in indexes:
            rollout = make_failed_rollout(prompt, index, producer=self._instance, error=reason)
            try:
                self._bus.publish(ROLLOUTS, rollout)
            except EventTooLargeError:
                self._bus.publish(ROLLOUTS, without_truth(rollout))
        self.counts.failed_rollouts += len(indexes)


def describe(error: BaseException) -> str:
    """An error in one line."""
    text = " ".join(str(error).split())
    return text or type(error).__name__

"""One rollout from its prompt: images read, text encoded, and a conversation that its environment leads.

It needs no bus, so that what only tries a model out makes the very same rollouts.
"""

import asyncio
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

from tristream.policy.prompt_encoder import EncodedPrompt, PromptEncoder
from tristream.producer.daemon_threads import DaemonThreads
from tristream.producer.engines.protocol import Engine, EngineFailedError
from tristream.producer.environments.contract import Environment
from tristream.producer.environments.conversation import Conversation
from tristream.producer.environments.single import answer_once
from tristream.producer.rollout_making import (
    check_sampling,
    describe,
    make_failed_rollout,
    make_rollout,
    make_sample,
    sampling_of,
    why_no_rollout,
)
from tristream.producer.watched_engine import EnvironmentTooSlowError, WatchedEngine
from tristream.runtime.retry import retry
from tristream.runtime.store import BlobStore, StoreUnavailableError
from tristream.wire.events import Image, Prompt, Rollout
from tristream.wire.identities import rollout_id

NUM_STORE_THREADS = 8
"""Prompts whose images are read at once."""
MEDIA_TYPES = {b"\x89PNG": "image/png", b"\xff\xd8\xff": "image/jpeg", b"GIF8": "image/gif", b"RIFF": "image/webp"}
"""Of images that environments add, by their first bytes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodedGroup:
    """A prompt that all its rollouts begin with."""

    prompt: Prompt
    encoded: EncodedPrompt
    images: tuple[bytes, ...]


class RolloutRunner:
    """Makes rollouts.

    Args:
        blobs: where images are.
        encoder: of the model.
        engine: samples.
        environments: how rollouts go on, by source; of other sources the policy answers once.
        max_seconds: longest time of a rollout, all its turns together.
        instance: who samples, for the rollouts.
        say: is told what is waited for, or nothing.
        stop: ends the waiting for a store.
    """

    def __init__(
        self,
        blobs: BlobStore,
        encoder: PromptEncoder,
        engine: Engine,
        *,
        environments: Mapping[str, Environment],
        max_seconds: float,
        instance: str,
        say: Callable[[str], None],
        stop: threading.Event,
    ) -> None:
        self._blobs = blobs
        self._encoder = encoder
        self._engine = engine
        self._environments = environments
        self._max_seconds = max_seconds
        self._instance = instance
        self._say = say
        self._stop = stop
        self._store_threads = DaemonThreads("images", NUM_STORE_THREADS)

    async def encode(self, prompt: Prompt) -> EncodedGroup:
        """Read the images of a prompt and encode it.

        Raises:
            StoppedError: told to stop while the store was away.
            Exception: it cannot be answered; poison comes in every shape, and concerns this prompt alone.
        """
        check_sampling(prompt.sampling)
        read = partial(self._read_images, prompt)
        images = await self._store_threads.do(read) if any(image.uri for image in prompt.images) else read()
        return EncodedGroup(prompt=prompt, encoded=self._encoder.encode(prompt.messages, images), images=images)

    async def run(self, group: EncodedGroup, index: int) -> Rollout:
        """The ``index``-th rollout of a group; a failed one says why.

        Raises:
            EngineFailedError: the engine failed, and it may be asked again.
        """
        try:
            return await self._run(group, index)
        except Exception as error:  # poison comes in every shape, from environments too, and concerns this one alone
            failure = find_engine_failure(error)
            if failure is not None:
                raise failure from error
            return make_failed_rollout(group.prompt, index, producer=self._instance, error=describe(error))

    def fail(self, prompt: Prompt, index: int, reason: str) -> Rollout:
        """A rollout that says why there is none."""
        return make_failed_rollout(prompt, index, producer=self._instance, error=reason)

    async def _run(self, group: EncodedGroup, index: int) -> Rollout:
        prompt = group.prompt
        environment = self._environments.get(prompt.group.source, answer_once)
        watched = WatchedEngine(self._engine)
        conversation = Conversation(
            self._engine if environment is answer_once else watched,
            self._encoder,
            request_id=rollout_id(prompt.group.id, index),
            first=group.encoded,
            messages=prompt.messages,
            images=group.images,
            wire_images=prompt.images,
            sampling=sampling_of(prompt, index),
            max_seconds=self._max_seconds,
            put_image=self._put_image,
        )
        if environment is answer_once:
            await conversation.answer()
        else:
            await self._lead(environment, conversation, watched, group, index)
        reason = why_no_rollout(conversation.completions)
        if reason is not None:
            return self.fail(prompt, index, reason)
        return make_rollout(prompt, index, conversation, producer=self._instance)

    async def _lead(
        self,
        environment: Environment,
        conversation: Conversation,
        engine: WatchedEngine,
        group: EncodedGroup,
        index: int,
    ) -> None:
        sample = make_sample(group.prompt, index)
        try:
            await engine.bound(environment(conversation, sample), self._max_seconds)
        except (EngineFailedError, EnvironmentTooSlowError, asyncio.CancelledError):
            raise
        except Exception as error:
            raise RuntimeError(f"its environment failed: {type(error).__name__}: {describe(error)}") from error

    def _read_images(self, prompt: Prompt) -> tuple[bytes, ...]:
        images = retry(
            lambda: tuple(self._blobs.read_image(image) for image in prompt.images),
            errors=(StoreUnavailableError,),
            say=lambda problem: self._say(f"the images of {prompt.group.id}: {problem}"),
            stop=self._stop,
        )
        self._say("")
        return images

    def _put_image(self, data: bytes) -> Image:
        kinds = (kind for magic, kind in MEDIA_TYPES.items() if data.startswith(magic))
        return self._blobs.put_image(data, next(kinds, "application/octet-stream"))


def find_engine_failure(error: BaseException) -> EngineFailedError | None:
    """The failure of the engine that an error comes from, if it does; environments may raise another one for it."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, EngineFailedError):
        cause = cause.__cause__ or cause.__context__
    return cause

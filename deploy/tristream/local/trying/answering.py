"""Answering prompts with the model and the engine of a run, in this process, by the code of its producers.

Torch and the engine's libraries are imported only when answers are wanted.
"""

import asyncio
import os
import signal
import tempfile
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from tristream.config.run_file import RunFile
from tristream.local.trying.own_weights import find_weights
from tristream.producer.engines.protocol import Engine, EngineFailedError, WeightsFile
from tristream.producer.environments.loading import load_environment
from tristream.runtime.errors import TryAgainError, UserError
from tristream.runtime.store import BlobStore
from tristream.wire.events import Prompt, Rollout

if TYPE_CHECKING:
    from tristream.producer.rollout_running import RolloutRunner

INSTANCE = "try"
"""Who sampled, as rollouts name it."""
FIRST_VERSION = 0
"""Version of the weights that a run begins with."""


class Answering:
    """Answers the prompts of a run, whatever becomes of them."""

    def __init__(self, runner: "RolloutRunner", *, max_running: int) -> None:
        self._runner = runner
        self.max_running = max_running
        """Answers that are generated at once."""

    async def answer_group(self, prompt: Prompt, on_answer: Callable[[], None]) -> list[Rollout]:
        """All rollouts of a prompt, by index; one that fails says why.

        Args:
            prompt: what is asked.
            on_answer: is called as each rollout finishes.
        """
        indexes = range(prompt.group.size)
        try:
            group = await self._runner.encode(prompt)
        except Exception as error:  # poison comes in every shape, and concerns this prompt alone
            return [self._runner.fail(prompt, index, _describe(error)) for index in indexes]

        async def answer(index: int) -> Rollout:
            try:
                rollout = await self._runner.run(group, index)
            except EngineFailedError as error:
                rollout = self._runner.fail(prompt, index, f"the engine failed: {_describe(error)}")
            on_answer()
            return rollout

        return await asyncio.gather(*(answer(index) for index in indexes))


@asynccontextmanager
async def open_answering(settings: RunFile, blobs: BlobStore) -> AsyncIterator[Answering]:
    """The model and the engine of a run with the model's own weights; all of it ends with the block.

    Raises:
        UserError: the model cannot be loaded, or the engine or an environment is not usable here.
        TryAgainError: the engine failed at its first weights.
        ModuleNotFoundError: the packages of the engine are not installed.
    """
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")  # read when transformers is imported
    rollout, model = settings.rollout, settings.model
    with _interruptible():
        from tristream.policy.prompt_encoder import PromptEncoder
        from tristream.producer.engines.registry import make_engine
        from tristream.producer.rollout_running import RolloutRunner

        encoder = PromptEncoder(model.path, max_image_pixels=rollout.max_image_pixels)
        engine = make_engine(rollout.engine, model, encoder)
    try:
        await _load_own_weights(engine, model.path)
        runner = RolloutRunner(
            blobs,
            encoder,
            engine,
            environments={
                source.name: load_environment(source.environment) for source in settings.sources if source.environment
            },
            max_seconds=rollout.max_seconds,
            instance=INSTANCE,
            say=lambda _problem: None,
            stop=threading.Event(),
        )
        yield Answering(runner, max_running=engine.max_running)
    finally:
        await engine.close()


async def _load_own_weights(engine: Engine, model_path: Path) -> None:
    """What the learner publishes first."""
    with tempfile.TemporaryDirectory(prefix="tristream-try-") as folder:
        path = find_weights(model_path, Path(folder))
        try:
            await engine.update_weights(FIRST_VERSION, WeightsFile(path=path))
        except EngineFailedError as error:
            raise TryAgainError(f"the engine failed at its first weights: {_describe(error)}") from None
        except ValueError as error:
            raise UserError(
                f"its weights are not those of its config ({error})",
                where=f"[model] path = {model_path}",
                remedy="save the checkpoint again",
            ) from None


@contextmanager
def _interruptible() -> Iterator[None]:
    """Let an interrupt end what does not give way to the event loop, such as the loading of a model."""
    previous = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)


def _describe(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__

"""An engine as one environment sees it: its own time is bounded, and that of the engine is not counted.

How long a turn takes, the engine bounds itself, and how long it waits for its turn is nobody's fault.
"""

import asyncio
from collections.abc import Awaitable

from tristream.producer.engines.protocol import Completion, GenerationRequest, Generator


class EnvironmentTooSlowError(Exception):
    """An environment took longer than a rollout may take, the policy's turns not counted."""


class WatchedEngine:
    """The engine of one rollout."""

    def __init__(self, engine: Generator) -> None:
        self._engine = engine
        self._timeout: asyncio.Timeout | None = None

    async def bound(self, work: Awaitable[None], seconds: float) -> None:
        """Await the work of an environment, which may take so long, without the time that it waits for answers.

        One that never awaits anything cannot be interrupted, and holds up everything.

        Raises:
            EnvironmentTooSlowError: it took longer.
        """
        try:
            async with asyncio.timeout(seconds) as self._timeout:
                await work
        except TimeoutError as error:
            if self._timeout is None or not self._timeout.expired():
                raise  # one of its own
            raise EnvironmentTooSlowError(
                f"its environment took longer than rollout.max_seconds, {seconds:g} s, beside the policy's turns"
            ) from error

    async def generate(self, request: GenerationRequest) -> Completion:
        """As the engine."""
        timeout, loop = self._timeout, asyncio.get_running_loop()
        deadline = None if timeout is None else timeout.when()
        if timeout is None or deadline is None or timeout.expired():
            return await self._engine.generate(request)
        left_seconds = deadline - loop.time()
        timeout.reschedule(None)
        try:
            return await self._engine.generate(request)
        finally:
            if not timeout.expired():
                timeout.reschedule(loop.time() + left_seconds)

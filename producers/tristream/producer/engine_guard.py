"""Who is in the engine: all groups together, or, after it failed, one alone.

An engine that fails does not say which request did it, so its groups come back one after the other, and what fails
alone is to blame. One that fails at everything is broken.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from tristream.runtime.errors import TryAgainError

FAILURES_IN_A_ROW = 16
"""Groups that fail alone one after the other, with none between that is answered, until the engine counts as broken."""


class EngineGuard:
    """Lets groups into the engine."""

    def __init__(self) -> None:
        self._changed = asyncio.Condition()
        self._num_together = 0
        self._num_suspects = 0
        self._alone = asyncio.Lock()
        self._failures_in_a_row = 0
        self._last_failure = ""

    @asynccontextmanager
    async def together(self) -> AsyncIterator[None]:
        """Be in the engine with others; waits while there are groups that are to be alone."""
        if self._num_suspects:
            async with self._changed:
                await self._changed.wait_for(lambda: self._num_suspects == 0)
        self._num_together += 1
        try:
            yield
        finally:
            self._num_together -= 1
            await self._tell()

    @asynccontextmanager
    async def alone(self) -> AsyncIterator[None]:
        """Be in the engine alone, one after the other."""
        self._num_suspects += 1
        try:
            async with self._alone:
                async with self._changed:
                    await self._changed.wait_for(lambda: self._num_together == 0)
                yield
        finally:
            self._num_suspects -= 1
            await self._tell()

    def note_answer(self) -> None:
        """The engine has answered something."""
        self._failures_in_a_row = 0

    def note_failure(self, reason: str) -> None:
        """It failed at a group that was alone."""
        self._failures_in_a_row += 1
        self._last_failure = reason

    def require_engine(self) -> None:
        """Check that the engine answers at all.

        Raises:
            TryAgainError: it failed at every one of the last groups.
        """
        if self._failures_in_a_row >= FAILURES_IN_A_ROW:
            raise TryAgainError(
                f"the engine failed at each of the last {self._failures_in_a_row} prompts: {self._last_failure}"
            )

    async def _tell(self) -> None:
        async with self._changed:
            self._changed.notify_all()

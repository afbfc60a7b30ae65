"""Who waits for the assembly: ranks for the batch of a step, learners for the log to be read."""

import asyncio
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any, Protocol

from tristream.assembler.shards import BuiltBatch
from tristream.wire.batches import NotReady
from tristream.wire.events import Ledger


class Held(Protocol):
    """The lease under which this process is the assembler."""

    @property
    def epoch(self) -> int:
        """Epoch under which it is held."""
        ...

    @property
    def log_seconds(self) -> float:
        """Seconds for which the log has been flowing."""
        ...

    def check(self) -> None:
        """Raise UserError once another process has taken over."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class LearnerStanding:
    """Where a learner stands."""

    ledger: Ledger
    world_size: int


@dataclass(slots=True, kw_only=True)
class Asked:
    """A step that ranks wait for."""

    answer: asyncio.Future[BuiltBatch | NotReady]
    num_ranks: int = 0
    is_built: bool = False

    def give(self, answer: BuiltBatch | NotReady) -> None:
        """Answer all ranks, unless they are answered."""
        if not self.answer.done():
            self.answer.set_result(answer)


class AskedSteps:
    """The steps that ranks wait for; belongs to one event loop."""

    def __init__(self) -> None:
        self._asked: dict[int, Asked] = {}

    def wait(self, step: int, timeout_seconds: float) -> Coroutine[Any, Any, BuiltBatch | NotReady | None]:
        """Ask for a step now; await the answer, which is None after the timeout."""
        asked = self._asked.get(step)
        if asked is None:
            asked = self._asked[step] = Asked(answer=asyncio.get_running_loop().create_future())
        asked.num_ranks += 1
        return self._wait(step, asked, timeout_seconds)

    def unbuilt(self) -> list[tuple[int, Asked]]:
        """The steps whose batch is not built, in order."""
        return [(step, asked) for step, asked in sorted(self._asked.items()) if not asked.is_built]

    def send_away(self, waiting_for: str) -> None:
        """Tell everybody that there is no batch, and what it waits for."""
        for asked in self._asked.values():
            asked.give(NotReady(waiting_for=waiting_for))
        self._asked.clear()

    def fail(self, error: Exception) -> None:
        """Tell everybody that there will be none."""
        for asked in self._asked.values():
            if not asked.answer.done():
                asked.answer.set_exception(error)

    async def _wait(self, step: int, asked: Asked, timeout_seconds: float) -> BuiltBatch | NotReady | None:
        try:
            await asyncio.wait((asked.answer,), timeout=max(timeout_seconds, 0.0))
        finally:
            asked.num_ranks -= 1
            if asked.num_ranks == 0 and self._asked.get(step) is asked:
                del self._asked[step]
        return asked.answer.result() if asked.answer.done() else None

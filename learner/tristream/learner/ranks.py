"""The ranks of a learner act together: what one of them meets concerns all.

    rank 0   work ---- told ---- go on, do it again, or raise
    rank 1   work ---- told ---- the same

No rank is left in a collective because another one waits, was told to stop, or failed. What is told goes through a
group of its own without a time limit, since a disk may be full for a day.
"""

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar, cast

from tristream.learner.training.distributed import gather_objects
from tristream.learner.waiting import awaited_by
from tristream.runtime.errors import StoppedError, TryAgainError, UserError

LOG = logging.getLogger("tristream.learner")

ValueT = TypeVar("ValueT")
OtherT = TypeVar("OtherT")

RETRY_SECONDS = 1.0
"""Pause before what had to wait is done again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """An error as it is told to other ranks."""

    kind: str
    words: tuple[str, ...]

    @classmethod
    def of(cls, error: Exception, rank: int) -> "Failure":
        """What other ranks are told of an error."""
        if isinstance(error, StoppedError):
            return cls(kind="stopped", words=())
        if isinstance(error, UserError):
            return cls(kind="user", words=(error.what, error.where, error.remedy))
        return cls(kind="again", words=(f"rank {rank} failed: {type(error).__name__}: {error}",))

    @property
    def severity(self) -> int:
        """The greatest one is what all ranks raise."""
        return ("stopped", "again", "user").index(self.kind)

    def as_error(self) -> Exception:
        """The error, for a rank that did not meet it itself."""
        if self.kind == "stopped":
            return StoppedError()
        if self.kind == "again":
            return TryAgainError(self.words[0])
        what, where, remedy = self.words
        return UserError(what, where=where, remedy=remedy)


@dataclass(frozen=True, slots=True, kw_only=True)
class Told(Generic[ValueT]):
    """What one rank tells of its work."""

    value: ValueT | None = None
    waits_for: str = ""
    failure: Failure | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt(Generic[ValueT]):
    """What became of work that all ranks did once."""

    values: tuple[ValueT, ...] = ()
    """What it gave on each rank, in their order; empty if it has to be done again."""
    waits_for: str = ""
    """What it waits for, in words, if it has to be done again."""


class Ranks:
    """This rank among the others; all of them call every method together."""

    def __init__(
        self, rank: int, size: int, *, stop: threading.Event, report_waiting: Callable[[str], None] = lambda _what: None
    ) -> None:
        self.rank = rank
        self.size = size
        self._stop = stop
        self._report_waiting = report_waiting
        self._said = ""
        """What was logged last, so that a long wait is one line."""

    def together(self, work: Callable[[], ValueT]) -> tuple[ValueT, ...]:
        """What the work gave on each rank; done again until nothing is missing that it needs.

        Raises:
            StoppedError: a rank was told to stop while it waited.
            Exception: the gravest error of any rank, on all of them.
        """
        while (attempt := self.attempt(work)).waits_for:
            self.pause(attempt.waits_for)
        return attempt.values

    def on_rank_0(self, work: Callable[[], ValueT]) -> ValueT:
        """What the work gave on rank 0, on all ranks; as ``together``."""
        return cast("ValueT", self.together(lambda: work() if self.rank == 0 else None)[0])

    def attempt(self, work: Callable[[], ValueT]) -> Attempt[ValueT]:
        """Do the work once on each rank; the errors are those of ``together``."""
        own: Exception | None = None
        try:
            told: Told[ValueT] = Told(value=work())
        except Exception as error:
            own, waits_for = error, awaited_by(error)
            told = Told(waits_for=waits_for, failure=None if waits_for else Failure.of(error, self.rank))
        return self._settle(self._gather(told), own)

    def pause(self, waits_for: str) -> None:
        """Wait a moment for what is missing, and say so.

        Raises:
            StoppedError: a rank was told to stop.
        """
        if waits_for != self._said:
            LOG.warning("waiting for %s", waits_for)
        self._said = waits_for
        self._report_waiting(waits_for)
        is_stopped = self._stop.wait(RETRY_SECONDS)
        if any(self._gather(is_stopped)):
            raise StoppedError

    def _gather(self, value: OtherT) -> list[OtherT]:
        return gather_objects(value) if self.size > 1 else [value]

    def _settle(self, told: list[Told[ValueT]], own: Exception | None) -> Attempt[ValueT]:
        failures = [(one.failure.severity, rank) for rank, one in enumerate(told) if one.failure is not None]
        if failures:
            _, rank = max(failures, key=lambda failure: failure[0])
            failure = told[rank].failure
            assert failure is not None
            raise own if rank == self.rank and own is not None else failure.as_error()
        waits_for = next((one.waits_for for one in told if one.waits_for), "")
        if waits_for:
            return Attempt(waits_for=waits_for)
        return Attempt(values=tuple(cast("ValueT", one.value) for one in told))

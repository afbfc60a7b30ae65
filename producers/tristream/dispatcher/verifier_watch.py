"""Which verifier versions are served, as the workers' statuses say: a pure state machine with a clock that is given.

A worker that has told nothing for a while is taken to be gone, and so is one that says that it is done. Time is that of
the log, so that a dispatcher that was frozen, or whose broker was away, takes nobody for gone.
"""

from collections.abc import Collection

from tristream.wire.events import Part, PartState, PartStatus
from tristream.wire.verifiers import versioned_name

PATIENCE_SECONDS = 20.0


class VerifierWatch:
    """Follows the workers of a run.

    Args:
        patience_seconds: a version that was served by nobody for so long, by the time of the log, is missing.
    """

    def __init__(self, patience_seconds: float = PATIENCE_SECONDS) -> None:
        self._patience_seconds = patience_seconds
        self._served: dict[str, float] = {}
        """When somebody served a version last, by ``NAME@VERSION``."""
        self._needed: dict[str, float] = {}
        """Since when a version is needed."""

    def observe(self, status: PartStatus, now_seconds: float) -> None:
        """Take a status as it comes; only a worker that is at work serves."""
        if status.part is Part.VERIFIER and status.state is PartState.READY:
            for load in status.verifiers:
                self._served[versioned_name(load.verifier, load.version)] = now_seconds

    def find_missing(self, needed: Collection[str], now_seconds: float) -> frozenset[str]:
        """The versions, of those that are needed, that are missing.

        Args:
            needed: all ``NAME@VERSION`` that are needed now.
            now_seconds: the time of the log.
        """
        self._needed = {name: self._needed.get(name, now_seconds) for name in needed}
        return frozenset(
            name
            for name, since in self._needed.items()
            if now_seconds - max(since, self._served.get(name, since)) >= self._patience_seconds
        )

    def find_unseen(self, needed: Collection[str], now_seconds: float) -> frozenset[str]:
        """The versions, of those that are needed, that nobody was seen to serve lately."""
        return frozenset(
            name
            for name in needed
            if name not in self._served or now_seconds - self._served[name] >= self._patience_seconds
        )

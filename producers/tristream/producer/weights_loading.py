"""The weights that an engine answers with: the newest, or those that a prompt pins.

A store that is away is waited for, and so is a disk that is full. Weights that are gone, or that the engine does not
take, are no reason to end: the newest ones are looked for until there are others, pinned ones for a while.
"""

import logging
import threading
import time
from collections.abc import Callable

from tristream.producer.engines.protocol import Engine
from tristream.producer.policy_following import PolicyFollower
from tristream.runtime.retry import retry
from tristream.runtime.store import BlobError, BlobStore, StoreUnavailableError
from tristream.wire.events import Weights

LOG = logging.getLogger("tristream.producer")

FRESH_SECONDS = 5.0
"""Longest wait for weights that are fresh enough for a prompt."""
FOLLOW_SECONDS = 0.01
"""Wait for news of the policy before a batch; a consumer receives nothing in no time at all."""
LOOK_AGAIN_SECONDS = 0.5
PINNED_ATTEMPTS = 5
"""How often pinned weights are looked for."""


class WeightsLoader:
    """Loads weights into an engine; ``say`` is told what is waited for."""

    def __init__(
        self,
        engine: Engine,
        blobs: BlobStore,
        policy: PolicyFollower,
        *,
        say: Callable[[str], None],
        stop: threading.Event,
    ) -> None:
        self._engine = engine
        self._blobs = blobs
        self._policy = policy
        self._say = say
        self._stop = stop
        self._loaded: Weights | None = None
        self.problem = ""
        """Why the last weights that were tried are not loaded, in words."""

    @property
    def is_stopped(self) -> bool:
        """Whether a stop was asked for."""
        return self._stop.is_set()

    def load_newest(self, oldest_version: int) -> bool:
        """Load the newest weights; False if stopped before they could be.

        Raises:
            StoppedError: told to stop while the store was away.
        """
        # The prompts came over another topic than the version they wait for, so they may be here first. After a
        # learner went back to a checkpoint the version may be long in coming: then older weights have to do.
        deadline = time.monotonic() + FRESH_SECONDS
        self._policy.follow(FOLLOW_SECONDS)
        while not self._stop.is_set():
            newest = self._policy.newest
            if newest is None:
                self._say("a policy version from the learner")
            elif newest.version < oldest_version and time.monotonic() < deadline:
                self._say(f"policy version {oldest_version} from the learner")
            elif self._try_load(newest):
                return True
            else:
                self._say(f"weights that can be used: {self.problem}")
                self._stop.wait(LOOK_AGAIN_SECONDS)
            self._policy.follow(FOLLOW_SECONDS)
        return False

    def load_pinned(self, weights: Weights) -> bool:
        """Load the weights of a version, or those that replaced them after the learner resumed.

        Raises:
            StoppedError: told to stop while the store was away.
        """
        for _ in range(PINNED_ATTEMPTS):
            self._policy.follow(FOLLOW_SECONDS)
            announced = self._policy.announced(weights.version)
            if self._try_load(weights) or (announced not in (None, weights) and self._try_load(announced)):
                return True
            if self._stop.wait(LOOK_AGAIN_SECONDS):
                break
        return False

    def _try_load(self, weights: Weights | None) -> bool:
        if weights is None:
            return False
        if weights == self._loaded:
            return True
        try:
            path = retry(
                lambda: self._blobs.fetch(weights.uri, weights.sha256),
                errors=(StoreUnavailableError, OSError),
                say=lambda problem: self._say(f"the weights of version {weights.version}: {problem}"),
                stop=self._stop,
            )
            self._loaded = None
            self._engine.load_weights(weights.version, path)
        except (BlobError, ValueError, RuntimeError) as error:
            problem = f"those of version {weights.version} are none: {error}"
            if problem != self.problem:
                LOG.warning("weights: %s", problem)
            self.problem = problem
            return False
        self._loaded = weights
        return True

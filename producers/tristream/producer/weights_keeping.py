"""Keeps the engine at the right weights while rollouts run, and lets prompts begin once it has theirs.

A store that is away is waited for, and so is a disk that is full. Weights that are gone, or that the engine does not
take, are no reason to end: the newest ones are looked for until there are others, pinned ones for a while.
"""

import asyncio
import logging
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tristream.producer.daemon_threads import DaemonThreads
from tristream.producer.engines.protocol import Engine, WeightsFile
from tristream.producer.policy_following import PolicyFollower
from tristream.producer.weights_choice import Need, choose, is_met, next_pin, oldest_trainable
from tristream.runtime.errors import StoppedError
from tristream.runtime.retry import retry
from tristream.runtime.store import BlobStore, StoreUnavailableError
from tristream.wire.events import Weights

LOG = logging.getLogger("tristream.producer")

FRESH_SECONDS = 5.0
"""Longest wait for weights that are fresh enough for a prompt."""
FOLLOW_SECONDS = 0.2
"""How long the thread that follows the policy waits for news before it may be told something else."""
LOOK_AGAIN_SECONDS = 0.5
PINNED_ATTEMPTS = 5
"""How often pinned weights are looked for."""


class WeightsGoneError(Exception):
    """Pinned weights cannot be had any more."""


@dataclass(slots=True)
class _Failure:
    times: int
    again_at: float


class WeightsKeeper:
    """Keeps an engine's weights; ``say`` is told what is waited for, or nothing.

    Args:
        engine: whose weights they are.
        blobs: where they come from.
        policy: which there are.
        max_staleness: largest age of a training rollout in policy versions.
        say: is told what is waited for, in words.
        stop: ends the waiting for a store.
    """

    def __init__(
        self,
        engine: Engine,
        blobs: BlobStore,
        policy: PolicyFollower,
        *,
        max_staleness: int,
        say: Callable[[str], None],
        stop: threading.Event,
    ) -> None:
        self._max_staleness = max_staleness
        self._engine = engine
        self._blobs = blobs
        self._policy = policy
        self._say = say
        self._stop = stop
        self._store_thread = DaemonThreads("weights")
        self._has: Weights | None = None
        self._takes: Weights | None = None
        """What the engine is just taking."""
        self._in_work: list[Need] = []
        self._waiting: list[Need] = []
        self._successors: dict[Weights, Weights] = {}
        """Weights that replaced pinned ones after the learner resumed."""
        self._failures: dict[Weights, _Failure] = {}
        self._problem = ""
        """Why the last weights that were tried are not loaded, in words."""
        self._news = asyncio.Event()

    @property
    def num_blocked(self) -> int:
        """Rollouts whose prompts wait for other weights."""
        return sum(need.num_rollouts for need in self._waiting)

    @asynccontextmanager
    async def using(
        self, *, pinned: Weights | None = None, oldest_version: int = 0, num_rollouts: int = 1
    ) -> AsyncIterator[None]:
        """Wait until the engine has the weights that a prompt wants, and see to it that it keeps them.

        Args:
            pinned: exactly these, or those that replaced them after the learner resumed; None: any.
            oldest_version: not older than this, unless such a version is not announced for long.
            num_rollouts: how many begin then.

        Raises:
            WeightsGoneError: the pinned ones cannot be had.
        """
        granted = asyncio.get_running_loop().create_future()
        need = Need(
            pinned=self._successors.get(pinned, pinned) if pinned else None,
            oldest_version=oldest_version,
            num_rollouts=num_rollouts,
            granted=granted,
        )
        self._waiting.append(need)
        self._news.set()
        try:
            self._grant()
            await granted
            yield
        finally:
            for needs in (self._waiting, self._in_work):
                if need in needs:
                    needs.remove(need)
            self._news.set()

    async def follow(self, thread: DaemonThreads) -> None:
        """Take in what the learner announces, for ever."""
        while True:
            for weights in await thread.do(partial(self._policy.poll, FOLLOW_SECONDS)):
                self._policy.observe(weights)
                self._news.set()

    async def keep(self) -> None:
        """Load what should be loaded, for ever.

        Raises:
            StoppedError: told to stop while the store was away.
        """
        while True:
            self._news.clear()
            self._forget_lost_weights()
            self._lower_bounds()
            self._grant()
            wanted = self._choose()
            if wanted is None:
                self._say(self._waits_for())
                await self._wait_for_news()
            else:
                await self._load(wanted)

    def _forget_lost_weights(self) -> None:
        """An engine that failed may have come back without weights."""
        if self._has is not None and self._engine.version != self._has.version:
            self._has = None

    def _lower_bounds(self) -> None:
        # The prompts came over another topic than the version they wait for, so they may be here first. After a
        # learner went back to a checkpoint the version may be long in coming: then older weights have to do.
        newest, long_ago = self._policy.newest, time.monotonic() - FRESH_SECONDS
        for need in self._waiting:
            if newest is not None and newest.version < need.oldest_version and need.since < long_ago:
                need.oldest_version = newest.version

    def _grant(self) -> None:
        """Let begin what may begin."""
        pin = self._next_pin()
        for need in list(self._waiting):
            oldest_version = oldest_trainable(need, self._policy.newest, self._max_staleness)
            if self._takes is None:
                may_begin = is_met(need, self._has, pin, oldest_version)
            else:
                may_begin = need.pinned is None and is_met(need, self._has, self._takes, oldest_version)
            if may_begin and not need.granted.done():
                self._waiting.remove(need)
                self._in_work.append(need)
                need.granted.set_result(None)

    def _choose(self) -> Weights | None:
        wanted = choose(self._in_work, self._next_pin(), self._loadable_newest(), self._max_staleness)
        if wanted is None or wanted == self._has:
            return None
        failure = self._failures.get(wanted)
        return None if failure is not None and failure.again_at > time.monotonic() else wanted

    def _next_pin(self) -> Weights | None:
        return next_pin(self._has, [need.pinned for need in self._waiting if need.pinned is not None])

    def _loadable_newest(self) -> Weights | None:
        """The newest weights; those that the engine has, if they were pinned before they are known to be announced."""
        newest, has = self._policy.newest, self._has
        if newest is None or has is None or newest.version >= has.version:
            return newest
        return has if self._policy.announced(has.version) is None else newest

    async def _load(self, weights: Weights) -> None:
        try:
            path = await self._store_thread.do(partial(self._fetch, weights))
            if self._choose() != weights:  # what should be loaded has changed meanwhile
                return
            await self._update(weights, path)
        except StoppedError:
            raise
        except Exception as error:  # engines refuse weights in ways of their own, and others may come
            self._note_failure(weights, f"those of version {weights.version} are none: {error}")
        else:
            self._failures.pop(weights, None)
            self._problem = ""

    def _fetch(self, weights: Weights) -> Path:
        return retry(
            lambda: self._blobs.fetch(weights.uri, weights.sha256),
            errors=(StoreUnavailableError, OSError),
            say=lambda problem: self._say(f"the weights of version {weights.version}: {problem}"),
            stop=self._stop,
        )

    async def _update(self, weights: Weights, path: Path) -> None:
        self._takes = weights
        try:
            await self._engine.update_weights(weights.version, WeightsFile(path=path, sha256=weights.sha256))
            self._has = weights
        except ValueError:
            raise  # the engine keeps those that it has
        except BaseException:
            self._has = None
            raise
        finally:
            self._takes = None

    def _note_failure(self, weights: Weights, problem: str) -> None:
        if problem != self._problem:
            LOG.warning("weights: %s", problem)
        self._problem = problem
        failure = self._failures.setdefault(weights, _Failure(0, 0.0))
        failure.times += 1
        failure.again_at = time.monotonic() + LOOK_AGAIN_SECONDS
        pinning = [need for need in self._waiting if need.pinned == weights]
        successor = self._policy.announced(weights.version)
        if pinning and successor not in (None, weights):
            assert successor is not None
            self._replace(pinning, weights, successor)
        elif failure.times >= PINNED_ATTEMPTS:
            for need in pinning:
                self._waiting.remove(need)
                need.granted.set_exception(WeightsGoneError(problem))
            if weights != self._policy.newest:
                del self._failures[weights]

    def _replace(self, pinning: Iterable[Need], weights: Weights, successor: Weights) -> None:
        self._successors[weights] = successor
        for need in pinning:
            need.pinned = successor

    def _waits_for(self) -> str:
        """What prompts wait for that cannot begin, in words."""
        newest = self._policy.newest
        if not self._waiting:
            return ""
        if newest is None:
            return "a policy version from the learner"
        bounds = [need.oldest_version for need in self._waiting if need.pinned is None]
        if bounds and min(bounds) > newest.version:
            return f"policy version {min(bounds)} from the learner"
        return f"weights that can be used: {self._problem}" if self._problem else ""

    async def _wait_for_news(self) -> None:
        try:
            async with asyncio.timeout(LOOK_AGAIN_SECONDS):
                await self._news.wait()
        except TimeoutError:
            return

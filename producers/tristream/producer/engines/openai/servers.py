"""One server of several: whether it may be asked, with which weights, and who brings it back when it is lost."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from tristream.producer.engines.openai.http_client import ServerHttp
from tristream.producer.engines.openai.probing import ServerKind
from tristream.producer.engines.openai.wire import ServerError, WeightsRefusedError
from tristream.runtime.errors import UserError

LOG = logging.getLogger("tristream.producer")

FIRST_PAUSE_SECONDS = 0.05
LONGEST_PAUSE_SECONDS = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetWeights:
    """The weights that all servers should have."""

    number: int
    """Told apart by this: a version may come again with other weights."""
    version: int
    path: str
    """Their folder, as servers see it."""


class Server:
    """A server; a task of its own probes it, gives it weights, and tries again what fails.

    It is asked for tokens only while it has the target's weights. ``changed`` is called when that changes.
    """

    def __init__(
        self, http: ServerHttp, probe: Callable[[ServerHttp], Awaitable[ServerKind]], changed: Callable[[], None]
    ) -> None:
        self._http = http
        self._probe = probe
        self._changed = changed
        self._target: TargetWeights | None = None
        self._loaded: TargetWeights | None = None
        self._is_confirmed = False
        self._had_weights = False
        self._scopes: set[asyncio.Timeout] = set()
        self._work = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self.kind: ServerKind | None = None
        self.num_running = 0
        """Requests for tokens."""
        self.tried_number = -1
        """Number of the newest target that it was tried to give it."""
        self.problem = ""
        """Why it is not asked, in words."""
        self.mistake: UserError | None = None
        """What a user has to mend about it."""

    @property
    def url(self) -> str:
        """Its address."""
        return self._http.url

    @property
    def http(self) -> ServerHttp:
        """How it is asked."""
        return self._http

    @property
    def serves(self) -> bool:
        """Whether it has the target's weights and may be asked."""
        return self._is_confirmed and self._loaded is not None and self._loaded is self._target

    @property
    def version(self) -> int:
        """Version of the weights that it samples with; -1 before any."""
        return -1 if self._loaded is None else self._loaded.version

    def want(self, target: TargetWeights) -> None:
        """Give it other weights."""
        self._target = target
        if self._task is None:
            self._task = asyncio.create_task(self._keep())
        self._work.set()

    def lose(self, problem: str) -> None:
        """It was lost: it is asked no more until it has answered, and has the weights again if it was_lost them."""
        if self._is_confirmed:
            LOG.warning("server %s is lost: %s", self.url, problem)
        self._is_confirmed = False
        self.problem = problem
        self._work.set()
        self._changed()

    @asynccontextmanager
    async def asked(self, deadline: float | None) -> AsyncIterator[None]:
        """The time of one request; it ends at a deadline of the loop's clock, or when the server must end it.

        Raises:
            TimeoutError: it was ended.
        """
        self.num_running += 1
        try:
            async with asyncio.timeout_at(deadline) as scope:
                self._scopes.add(scope)
                try:
                    yield
                finally:
                    self._scopes.discard(scope)
        finally:
            self.num_running -= 1

    async def close(self) -> None:
        """End its task, and all requests."""
        self._end_requests()
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def _end_requests(self) -> None:
        for scope in self._scopes:
            if not scope.expired():
                scope.reschedule(asyncio.get_running_loop().time())

    async def _keep(self) -> None:
        pause_seconds = FIRST_PAUSE_SECONDS
        while True:
            self._work.clear()
            target = self._target
            try:
                await self._bring_up(target)
                pause_seconds = FIRST_PAUSE_SECONDS
            except (ServerError, UserError) as error:
                self._note_failure(error, target)
            except Exception as error:  # a server that answers what nobody thought of is one that cannot be used
                LOG.exception("server %s", self.url)
                self._note_failure(ServerError(f"{type(error).__name__}: {error}"), target)
            self._changed()
            if self.serves:
                await self._work.wait()
            else:
                try:
                    await asyncio.wait_for(self._work.wait(), pause_seconds)
                except TimeoutError:
                    pause_seconds = min(2 * pause_seconds, LONGEST_PAUSE_SECONDS)

    def _note_failure(self, error: ServerError | UserError, target: TargetWeights | None) -> None:
        text = str(error)
        if text != self.problem:
            LOG.warning("server %s cannot be used: %s", self.url, text)
        self.problem = text
        self.mistake = error if isinstance(error, UserError) else None
        if isinstance(error, WeightsRefusedError) and not self._had_weights:
            self.mistake = UserError(
                f"{self.url} takes no weights ({text})",
                where="[rollout.engine] weights_folder",
                remedy="name where the servers see the folder above the weights' own, or give it the same path there",
            )
        self._is_confirmed = False
        if target is not None:
            self.tried_number = max(self.tried_number, target.number)

    async def _bring_up(self, target: TargetWeights | None) -> None:
        if self.kind is None:
            self.kind = await self._probe(self._http)
        # It may have been lost for a moment, or have started anew with the weights of its checkpoint.
        was_lost = self._loaded is not None and not self._is_confirmed
        if was_lost and await self.kind.weights.label() != str(self.version):
            self._loaded = None
            self.kind = await self._probe(self._http)
        if target is not None and self._loaded is not target:
            await self._load(self.kind, target)
            self._had_weights = True
        self._is_confirmed, self.problem, self.mistake = True, "", None
        if target is not None:
            self.tried_number = max(self.tried_number, target.number)

    async def _load(self, kind: ServerKind, target: TargetWeights) -> None:
        """Give it weights; it is not left paused, and nothing goes on with weights that are in doubt."""
        weights = kind.weights
        try:
            if weights.keeps:
                await weights.pause()
            if not weights.keeps:
                self._end_requests()
                await weights.pause()
            await weights.load(target.path, target.version)
            self._loaded = target
            await weights.resume()
        except BaseException:
            self._loaded = None
            self._end_requests()
            try:
                await weights.resume()
            except (ServerError, UserError):
                pass  # what failed first says more
            raise
        LOG.info("server %s has the weights of version %d", self.url, target.version)

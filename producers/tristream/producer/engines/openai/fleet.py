"""All servers of an engine: which one is asked next, and that they have the same weights."""

import asyncio
import logging
from collections.abc import Sequence

import aiohttp

from tristream.config.engines import OpenaiEngineSection
from tristream.producer.engines.openai.http_client import ServerHttp
from tristream.producer.engines.openai.probing import ServerKind, probe
from tristream.producer.engines.openai.routing import PrefixMemory, choose_server
from tristream.producer.engines.openai.servers import Server, TargetWeights
from tristream.producer.engines.protocol import EngineFailedError

LOG = logging.getLogger("tristream.producer")

STRAGGLER_SECONDS = 15.0
"""How long the first server that has new weights waits for the others; they follow later."""


class Fleet:
    """Servers, with one session of HTTP; made on the event loop that uses it."""

    def __init__(self, section: OpenaiEngineSection, *, key: str, excluded: Sequence[int], has_vision: bool) -> None:
        """Take the section, the servers' key or nothing, tokens that are never sampled, and what the model takes."""
        self._section = section
        self._excluded = excluded
        self._has_vision = has_vision
        self._changed = asyncio.Event()
        self._memory = PrefixMemory()
        self._has_weights = False
        self._is_closed = False
        self._session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))
        self._servers: dict[str, Server] = {}
        for url in section.urls:
            http = ServerHttp(url, self._session, key=key, long_seconds=section.request_timeout_seconds)
            self._servers[http.url] = Server(http, self._probe, self._note_change)

    @property
    def problem(self) -> str:
        """Which servers are not asked, and why, in words; empty if all are."""
        return "; ".join(f"{server.url}: {server.problem}" for server in self._servers.values() if server.problem)

    async def load(self, target: TargetWeights) -> None:
        """Give all servers weights: until all have them, or one and the others have failed or take long.

        Raises:
            EngineFailedError: none has taken them for ``request_timeout_seconds``.
            UserError: a server is not set up as it must be, and none has ever had weights.
        """
        for server in self._servers.values():
            server.want(target)
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._section.request_timeout_seconds
        while True:
            changed = self._changed
            waiting = [server for server in self._servers.values() if not server.serves]
            some_have = len(waiting) < len(self._servers)
            if some_have and all(server.tried_number >= target.number for server in waiting):
                break
            self._require_no_mistake()
            if some_have:
                deadline = min(deadline, loop.time() + STRAGGLER_SECONDS)
            if not await _happens(changed, deadline - loop.time()):
                if some_have:
                    break
                raise EngineFailedError(f"no server takes the weights: {self.problem}")
        self._has_weights = True

    async def find(self, tokens: Sequence[int], deadline: float | None, avoided: str) -> Server:
        """The server for a prompt; waits for one.

        Args:
            tokens: the prompt.
            deadline: on the loop's clock.
            avoided: a server that is not taken if there is another one; empty for none.

        Raises:
            TimeoutError: the deadline is over.
            EngineFailedError: none can be asked for ``request_timeout_seconds``.
        """
        loop = asyncio.get_running_loop()
        give_up = loop.time() + self._section.request_timeout_seconds
        told = ""
        while not self._is_closed:
            changed = self._changed
            serving = {url: server.num_running for url, server in self._servers.items() if server.serves}
            if len(serving) > 1:
                serving.pop(avoided, None)
            if serving:
                url = choose_server(self._memory.prefer(tokens, serving), serving)
                self._memory.remember(tokens, url)
                return self._servers[url]
            if self.problem not in ("", told):
                told = self.problem
                LOG.warning("no server can be asked, a prompt waits: %s", told)
            until = give_up if deadline is None else min(give_up, deadline)
            if not await _happens(changed, until - loop.time()):
                if deadline is not None and loop.time() >= deadline:
                    raise TimeoutError
                raise EngineFailedError(f"no server can be asked: {self.problem or 'none has weights'}")
        raise EngineFailedError("the engine is closed")

    def lose(self, server: Server, problem: str) -> None:
        """A server was lost."""
        if server.serves:
            self._memory.forget(server.url)
        server.lose(problem)

    def remember(self, tokens: Sequence[int], server: Server) -> None:
        """Note what a server has read or sampled."""
        self._memory.remember(tokens, server.url)

    async def close(self) -> None:
        """Leave the servers; none is left paused."""
        self._is_closed = True
        await asyncio.gather(*(server.close() for server in self._servers.values()))
        self._note_change()
        await self._session.close()

    async def _probe(self, http: ServerHttp) -> ServerKind:
        return await probe(http, model=self._section.model, excluded=self._excluded, has_vision=self._has_vision)

    def _note_change(self) -> None:
        # Who waits holds the event that is set; who waits next takes the new one.
        self._changed.set()
        self._changed = asyncio.Event()

    def _require_no_mistake(self) -> None:
        """Say at once what a user has to mend before anything can be generated."""
        for server in self._servers.values():
            if server.mistake is not None and not self._has_weights:
                raise server.mistake


async def _happens(event: asyncio.Event, seconds: float) -> bool:
    """Whether an event happens within a time."""
    try:
        await asyncio.wait_for(event.wait(), max(seconds, 0.0))
    except TimeoutError:
        return False
    return True

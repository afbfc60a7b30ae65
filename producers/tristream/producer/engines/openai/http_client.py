"""HTTP with one server: calls, streams, and errors that say what may be done about them."""

import json
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

import aiohttp

from tristream.config.secrets import without_password
from tristream.producer.engines.openai.wire import (
    BadAnswerError,
    RequestRefusedError,
    ServerBusyError,
    ServerError,
    ServerFailedError,
    ServerLostError,
)

CONNECT_SECONDS = 10.0
CALL_SECONDS = 60.0
"""For an answer to a call that computes nothing."""
LONGEST_LINE_BYTES = 2**26
"""Of a stream; the first holds the prompt."""
LONGEST_ERROR_CHARACTERS = 500


class ServerHttp:
    """One server, with the connections of a session that all servers share."""

    def __init__(self, url: str, session: aiohttp.ClientSession, *, key: str, long_seconds: float) -> None:
        """Take the address, the session, the key or nothing, and how long an answer may be silent."""
        self._address = url.rstrip("/")
        self.url = without_password(self._address)
        """The address as it may be shown."""
        self._session = session
        self._headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._long_seconds = long_seconds

    async def get(self, path: str) -> dict[str, Any]:
        """The answer to GET.

        Raises:
            ServerError: there is none.
        """
        return await self._call("GET", path, None, CALL_SECONDS)

    async def post(self, path: str, body: dict[str, Any] | None = None, *, is_long: bool = False) -> dict[str, Any]:
        """The answer to POST, empty if it is no JSON object; ``is_long`` if it takes work.

        Raises:
            ServerError: there is none.
        """
        return await self._call("POST", path, body, self._long_seconds if is_long else CALL_SECONDS)

    async def stream(self, path: str, body: dict[str, Any]) -> AsyncGenerator[bytes, None]:
        """Data of the events that answer POST, to the last one.

        Raises:
            ServerError: the server refuses, fails, or is lost before the last event.
        """
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS, sock_read=self._long_seconds)
        try:
            async with self._session.post(
                f"{self._address}{path}", json=body, headers=self._headers, timeout=timeout
            ) as response:
                await _require_ok(response)
                async for line in _lines(response.content):
                    if line == b"data: [DONE]":
                        return
                    if line.startswith(b"data: "):
                        yield line.removeprefix(b"data: ")
        except (aiohttp.ClientError, OSError) as error:
            raise ServerLostError(_describe(error)) from None
        raise ServerLostError("its answer ended in the middle")

    async def _call(self, method: str, path: str, body: dict[str, Any] | None, seconds: float) -> dict[str, Any]:
        timeout = aiohttp.ClientTimeout(total=seconds, sock_connect=CONNECT_SECONDS)
        try:
            async with self._session.request(
                method, f"{self._address}{path}", json=body, headers=self._headers, timeout=timeout
            ) as response:
                await _require_ok(response)
                text = await response.text(errors="replace")
        except (aiohttp.ClientError, OSError) as error:
            raise ServerLostError(f"{path}: {_describe(error)}") from None
        except ServerError as error:
            error.args = (f"{path}: {error}", *error.args[1:])
            raise
        try:
            answer = json.loads(text)
        except ValueError:
            if method == "GET":
                raise BadAnswerError(f"{path} answers no JSON: {text[:100]!r}") from None
            return {}
        return answer if isinstance(answer, dict) else {}


async def _require_ok(response: aiohttp.ClientResponse) -> None:
    if response.status == 200:
        return
    text = _error_text(await response.text(errors="replace")) or response.reason or "no reason"
    text = f"{text} (HTTP {response.status})"
    if response.status == 429:
        raise ServerBusyError(text)
    if response.status in (408, 502, 503, 504):
        raise ServerLostError(text)
    if 400 <= response.status < 500:
        raise RequestRefusedError(text, response.status)
    raise ServerFailedError(text)


async def _lines(stream: aiohttp.StreamReader) -> AsyncIterator[bytes]:
    """Lines of any length; the reader's own are short."""
    rest = b""
    async for data in stream.iter_any():
        *lines, rest = (rest + data).split(b"\n")
        for line in lines:
            yield line.rstrip(b"\r")
        if len(rest) > LONGEST_LINE_BYTES:
            raise BadAnswerError(f"it sent a line of more than {LONGEST_LINE_BYTES} bytes")


def _error_text(text: str) -> str:
    """What a server says about an error, in one line."""
    try:
        error = json.loads(text)
        error = error.get("error", error)
        text = str(error.get("message", error) if isinstance(error, dict) else error)
    except (ValueError, AttributeError):
        pass
    return " ".join(text.split())[:LONGEST_ERROR_CHARACTERS]


def _describe(error: BaseException) -> str:
    if isinstance(error, aiohttp.ClientPayloadError):
        return "the connection was lost in the middle of an answer"
    return " ".join(str(error).split()) or type(error).__name__

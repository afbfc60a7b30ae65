"""The lane of async verifiers: many calls at once in one child, each with a limit of its own."""

import asyncio
import socket
import time
from collections.abc import Coroutine, Generator, Mapping
from typing import Any

from tristream.verifiers.pool.coercion import PlainJudgement
from tristream.verifiers.pool.judging import Call, Judge, pack_verdict
from tristream.verifiers.pool.messages import HEADER, pack_frame
from tristream.verifiers.pool.progress import Progress
from tristream.wire.events import Status


def serve_async(judge: Judge, connection: socket.socket, progress: Progress, wall_seconds: Mapping[str, float]) -> None:
    """Judge until the connection ends; verdicts go out as they come.

    Raises:
        EOFError, ConnectionError: the connection has ended.
    """
    asyncio.run(_AsyncServer(judge, connection, progress, wall_seconds).serve())


class _AsyncServer:
    def __init__(
        self, judge: Judge, connection: socket.socket, progress: Progress, wall_seconds: Mapping[str, float]
    ) -> None:
        self._judge = judge
        self._connection = connection
        self._progress = progress
        self._wall_seconds = wall_seconds
        self._calls: set[asyncio.Task[None]] = set()

    async def serve(self) -> None:
        reader, writer = await asyncio.open_connection(sock=self._connection)
        while True:
            try:
                header = await reader.readexactly(HEADER.size)
                number, num_content_bytes, num_blob_bytes = HEADER.unpack(header)
                content = await reader.readexactly(num_content_bytes)
                blobs = await reader.readexactly(num_blob_bytes)
            except asyncio.IncompleteReadError:
                raise EOFError from None
            call = asyncio.create_task(self._answer(number, content, blobs, writer))
            self._calls.add(call)
            call.add_done_callback(self._calls.discard)

    async def _answer(self, number: int, content: bytes, blobs: bytes, writer: asyncio.StreamWriter) -> None:
        start_seconds = time.perf_counter()
        call: Call | None = None
        judgements: list[PlainJudgement] = []
        try:
            self._progress.mark(number, is_truth_fine=False)
            call = self._judge.prepare(content, blobs)
            self._progress.mark(0, is_truth_fine=False)
            returned = await self._within_limit(number, call)
            judgements = call.judgements_of(returned)
            status, detail = Status.SCORED, ""
        except _TooLateError as late:
            status, detail = Status.TIMEOUT, str(late)
        except BaseException as error:  # also CancelledError and SystemExit: it is the code of a verifier
            status, detail, judgements = self._judge.conclude(error, call)
        verdict = pack_verdict(
            status,
            detail,
            judgements,
            is_truth_fine=call is not None,
            cpu_seconds=0.0,
            wall_seconds=time.perf_counter() - start_seconds,
        )
        writer.write(pack_frame(number, verdict))

    async def _within_limit(self, number: int, call: Call) -> Any:  # noqa: ANN401 - whatever a verifier returns
        """What the call returns; one that ignores its end is left to itself."""
        limit_seconds = self._wall_seconds[call.definition.versioned_name]
        running = asyncio.ensure_future(_run(_Marked(number, call.start(), self._progress)))
        done, _ = await asyncio.wait({running}, timeout=limit_seconds)
        if not done:
            running.cancel()
            raise _TooLateError(f"no score within {limit_seconds:g} s")
        return running.result()


async def _run(marked: "_Marked") -> Any:  # noqa: ANN401 - whatever a verifier returns
    try:
        return await marked
    except (SystemExit, KeyboardInterrupt) as error:  # these would end the loop itself
        raise RuntimeError(f"it raised {type(error).__name__}") from None


class _TooLateError(Exception):
    pass


class _Marked:
    """A coroutine that marks in the progress when its own code runs: should it block, it is known who did."""

    def __init__(self, number: int, coroutine: Coroutine[Any, Any, Any], progress: Progress) -> None:
        self._number = number
        self._coroutine = coroutine
        self._progress = progress

    def __await__(self) -> Generator[Any, Any, Any]:
        iterator = self._coroutine.__await__()
        sent: Any = None
        thrown: BaseException | None = None
        while True:
            self._progress.mark(self._number, is_truth_fine=True)
            try:
                yielded = iterator.send(sent) if thrown is None else iterator.throw(thrown)
            except StopIteration as stop:
                return stop.value
            finally:
                self._progress.mark(0, is_truth_fine=False)
            try:
                sent, thrown = (yield yielded), None
            except BaseException as error:  # such as being cancelled; the coroutine itself decides about it
                sent, thrown = None, error

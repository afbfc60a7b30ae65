"""Blocking calls beside an event loop, in threads that no process waits for at its end.

A store or a broker may not answer for minutes, and a producer that is told to stop ends within seconds all the same.
"""

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from queue import SimpleQueue
from typing import TypeVar

ResultT = TypeVar("ResultT")


class DaemonThreads:
    """Threads that do calls in the order in which they are asked; used from one event loop.

    Args:
        name: of the threads.
        num_threads: calls at once.
    """

    def __init__(self, name: str, num_threads: int = 1) -> None:
        self._calls: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._num_threads = num_threads
        for _ in range(num_threads):
            threading.Thread(target=self._work, name=name, daemon=True).start()

    async def do(self, call: Callable[[], ResultT]) -> ResultT:
        """The result of a call; if the task that waits for it is cancelled, the call goes on and is forgotten."""
        loop = asyncio.get_running_loop()
        done: asyncio.Future[ResultT] = loop.create_future()
        self._calls.put(lambda: _tell(loop, done, call))
        return await done

    def close(self) -> None:
        """End the threads once they have done what was asked before."""
        for _ in range(self._num_threads):
            self._calls.put(None)

    def _work(self) -> None:
        while (call := self._calls.get()) is not None:
            call()


def _tell(loop: asyncio.AbstractEventLoop, done: "asyncio.Future[ResultT]", call: Callable[[], ResultT]) -> None:
    settle: Callable[[], None]
    try:
        result = call()
    except BaseException as error:  # it is raised where the result is awaited
        settle = _failing(done, error)
    else:
        settle = _succeeding(done, result)
    with suppress(RuntimeError):  # the loop has ended
        loop.call_soon_threadsafe(settle)


def _succeeding(done: "asyncio.Future[ResultT]", result: ResultT) -> Callable[[], None]:
    return lambda: None if done.done() else done.set_result(result)


def _failing(done: "asyncio.Future[ResultT]", error: BaseException) -> Callable[[], None]:
    return lambda: None if done.done() else done.set_exception(error)

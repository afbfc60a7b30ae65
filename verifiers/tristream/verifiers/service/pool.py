"""Child processes that score, each of which can be killed at a hard deadline.

    submit(tasks) -> [ queue ] -> supervisor thread -> pipe -> child process
         futures  <-------------- one verdict a task <- pipe <-

============================  =====================================================================
a supervisor thread waits for  until
============================  =====================================================================
a task in the queue            submit() or stop()
the next verdict of its child  the child answers, dies, or the task's deadline passes
============================  =====================================================================

A supervisor hands its child a few tasks in one message and gets one verdict a task, so it knows which
task the child is at. That task alone becomes TIMEOUT (the child is killed) or ERROR (the child died);
the rest of the message goes back to the head of the queue. Children come from a fork server that has
the verifiers loaded: never a fork of this process with its threads, and a new child in milliseconds.
"""

import logging
import math
import multiprocessing
import select
import signal
import threading
from collections import deque
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess

from tristream.verifiers.service.child import Task, Verdict, run_child
from tristream.verifiers.verifier import Verifier
from tristream.wire.events import Status

LOG = logging.getLogger("tristream.verifier")

TASKS_PER_MESSAGE = 16
TASKS_PER_CHILD = 10_000
"""A child is replaced after this many tasks, so that a leak stays small."""
START_SECONDS = 120.0
"""A child that is not warm by then cannot be started."""

TaskBatch = list[tuple[Task, "Future[Verdict]"]]
"""Tasks with the futures that wait for their verdicts."""


class PoolError(Exception):
    """Children cannot be started; nothing can be scored."""


class Pool:
    """Judges tasks in child processes."""

    def __init__(self, verifiers: Mapping[str, type[Verifier]], *, num_processes: int, deadline_seconds: float) -> None:
        self._verifiers = dict(verifiers)
        self._deadline_seconds = deadline_seconds
        self._queue: deque[tuple[Task, Future[Verdict]]] = deque()
        self._changed = threading.Condition()
        self._stopping = False
        self._failure: PoolError | None = None
        self._num_warm = 0
        self._children: dict[int, BaseProcess] = {}
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(["tristream.verifiers.service.preload"])
        self._threads = [
            threading.Thread(target=self._supervise, args=(slot,), name=f"verifier-child-{slot}", daemon=True)
            for slot in range(num_processes)
        ]
        self.num_restarts = 0
        """Children replaced after a kill or a crash."""

    def start(self) -> None:
        """Start the children and wait until all are warm.

        Raises:
            PoolError: a child cannot be started.
        """
        for thread in self._threads:
            thread.start()
        with self._changed:
            self._changed.wait_for(lambda: self._failure or self._num_warm >= len(self._threads))
            if self._failure:
                raise self._failure

    def submit(self, tasks: Sequence[Task]) -> list["Future[Verdict]"]:
        """Queue tasks; each future gets a verdict, or PoolError if the pool stops or fails first."""
        futures: list[Future[Verdict]] = [Future() for _ in tasks]
        for future in futures:
            future.set_running_or_notify_cancel()  # from here on it cannot be cancelled, only resolved
        with self._changed:
            if self._failure or self._stopping:
                raise self._failure or PoolError("the pool is stopped")
            self._queue.extend(zip(tasks, futures, strict=True))
            self._changed.notify_all()
        return futures

    def stop(self) -> None:
        """Kill the children; what is not judged yet fails with PoolError."""
        self._fail(PoolError("the pool is stopped"), is_failure=False)
        for thread in self._threads:
            thread.join(timeout=5)

    def _supervise(self, slot: int) -> None:
        """Keep one child alive and busy until the pool stops."""
        try:
            while not self._stopping:
                process, connection = self._start_child(slot)
                with self._changed:
                    self._num_warm += 1
                    self._changed.notify_all()
                try:
                    self._serve(process, connection)
                finally:
                    process.kill()
                    process.join()
                    connection.close()
        except Exception as error:
            if not self._stopping:
                LOG.exception("a child process cannot be kept running")
                self._fail(PoolError(f"a child process cannot be kept running: {error!r}"), is_failure=True)

    def _start_child(self, slot: int) -> tuple[BaseProcess, Connection]:
        ours, theirs = self._context.Pipe()
        process = self._context.Process(
            target=run_child,
            args=(theirs, self._verifiers, self._deadline_seconds),
            name=f"verifier-{slot}",
            daemon=True,
        )
        process.start()
        theirs.close()
        self._children[slot] = process
        if not ours.poll(START_SECONDS):
            raise PoolError(f"a child is not ready after {START_SECONDS:.0f} s")
        ours.recv()
        return process, ours

    def _serve(self, process: BaseProcess, connection: Connection) -> None:
        """Feed one child until it has to be replaced or the pool stops."""
        num_tasks = 0
        while num_tasks < TASKS_PER_CHILD and (batch := self._take()):
            num_tasks += len(batch)
            if not self._judge(batch, process, connection):
                if not self._stopping:
                    self.num_restarts += 1
                return

    def _take(self) -> TaskBatch:
        """The next few tasks, this child's share at most; none when the pool stops."""
        with self._changed:
            self._changed.wait_for(lambda: self._queue or self._stopping)
            share = math.ceil(len(self._queue) / len(self._threads))
            return [self._queue.popleft() for _ in range(min(share, TASKS_PER_MESSAGE))]

    def _judge(self, batch: TaskBatch, process: BaseProcess, connection: Connection) -> bool:
        """Resolve the futures of a batch; False if the child is gone and unjudged tasks are queued again."""
        try:
            connection.send([task.pack() for task, _ in batch])
        except OSError:  # died while idle: no task is to blame
            self._requeue(batch)
            return False
        poll = select.poll()  # of a connection itself costs far more, as it is made anew for each verdict
        poll.register(connection, select.POLLIN)
        for position, (_task, future) in enumerate(batch):
            verdict, is_alive = self._receive(process, connection, poll)
            if self._stopping and not is_alive:
                self._requeue(batch[position:])
                return False
            future.set_result(verdict)
            if not is_alive:
                self._requeue(batch[position + 1 :])
                return False
        return True

    def _receive(self, process: BaseProcess, connection: Connection, poll: select.poll) -> tuple[Verdict, bool]:
        """The verdict on the task that the child is at, and whether the child lives on."""
        try:
            if poll.poll(self._deadline_seconds * 1000):
                return Verdict.unpack(connection.recv()), True
        except (EOFError, OSError):
            process.join(timeout=5)
            if process.exitcode != -signal.SIGALRM:  # that is a child's own timer
                return Verdict(status=Status.ERROR, detail=f"the process died: {_describe(process.exitcode)}"), False
        process.kill()
        process.join()
        seconds = self._deadline_seconds
        return Verdict(status=Status.TIMEOUT, detail=f"no score after {seconds:g} s", score_seconds=seconds), False

    def _requeue(self, batch: TaskBatch) -> None:
        """Put tasks back at the head of the queue."""
        with self._changed:
            if not self._stopping:
                self._queue.extendleft(reversed(batch))
                self._changed.notify_all()
                return
        for _task, future in batch:
            future.set_exception(self._failure or PoolError("the pool is stopped"))

    def _fail(self, error: PoolError, *, is_failure: bool) -> None:
        """End everything: queued tasks get the error, children are killed."""
        with self._changed:
            self._stopping = True
            self._failure = error if is_failure else self._failure
            pending = list(self._queue)
            self._queue.clear()
            self._changed.notify_all()
        for process in self._children.values():
            process.kill()
        for _task, future in pending:
            future.set_exception(error)


def _describe(exitcode: int | None) -> str:
    if exitcode is not None and exitcode < 0:
        return f"signal {signal.Signals(-exitcode).name}"
    return f"exit code {exitcode}"

"""The assembler at work: one event loop that holds the assembly, and threads for whatever blocks.

    who waits     for what                             woken by
    next_batch    a batch, and that its drops are      the loop
                  on the log
    attach        the rebuild                          the loop
    commit        the broker's acknowledgement         the publishing thread
    the loop      records, or a learner                the reading thread

Only the loop touches the assembly, so it needs no lock, and nobody who waits occupies a thread. Kafka consumers
belong to one thread, the reading one; the publishing thread hands over and flushes in the order it was asked to.
A failure of the bus, wherever it happens, ends the assembler: a new one rebuilds all state from the log.
"""

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

from tristream.assembler.assembly import Assembly, LedgerMismatchError, NotAttachedError
from tristream.assembler.shards import BuiltBatch
from tristream.config.parts import AssemblerSettings
from tristream.runtime.bus.protocol import Bus, BusError, Reader
from tristream.runtime.hooks import reach
from tristream.wire.batches import Commit, NotReady
from tristream.wire.events import Outcome
from tristream.wire.ledger import Ledger
from tristream.wire.topics import OUTCOMES, REWARDS, ROLLOUTS

ResultT = TypeVar("ResultT")

POLL_SECONDS = 0.1
"""Longest time that the loop waits for records before it looks at what else there is to do."""
MAX_RECORDS = 256
"""Most records taken at once, so that the loop stays responsive."""


@dataclass(slots=True, kw_only=True)
class WaitingLearner:
    """A learner that waits to be told that the assembler stands where it stands."""

    ledger: Ledger
    world_size: int
    done: asyncio.Future[None]


@dataclass(slots=True, kw_only=True)
class Asked:
    """A step that ranks wait for."""

    answer: asyncio.Future[BuiltBatch | NotReady]
    num_ranks: int = 0
    is_built: bool = False


class AssemblyService:
    """Serves the assembly of one run; all methods belong to one event loop."""

    def __init__(self, settings: AssemblerSettings, bus: Bus) -> None:
        self.assembly = Assembly(settings)
        self._bus = bus
        self._reading = ThreadPoolExecutor(1, thread_name_prefix="reader")
        self._publishing = ThreadPoolExecutor(1, thread_name_prefix="publisher")
        self._reader: Reader | None = None
        self._attach_requests: deque[WaitingLearner] = deque()
        self._asked: dict[int, Asked] = {}
        self._acknowledged: dict[int, BuiltBatch] = {}
        """Batches whose drops are on the log."""
        self._answers: set[asyncio.Task[None]] = set()
        self._stands = asyncio.Event()
        """Not set while the state is being rebuilt."""
        self._stands.set()
        self._wake = asyncio.Event()
        self._failure: Exception | None = None
        self._has_ended_in_order = False
        """Whether it was told to stop, so that what is being published may take its time."""

    # The learner's side --------------------------------------------------------------------------

    async def attach(self, ledger: Ledger, world_size: int) -> None:
        """Start, or go on, from where the learner stands.

        A learner that restarted while the assembler lived finds the batches after its checkpoint as
        they were; in every other case the state is rebuilt from the log.

        Raises:
            LedgerMismatchError: the log and the ledger belong to different histories.
            BusError: the log could not be read, or the assembler ends.
        """
        self._raise_failure()
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._attach_requests.append(WaitingLearner(ledger=ledger, world_size=world_size, done=done))
        self._wake.set()
        await done

    async def next_batch(self, step: int, timeout_seconds: float) -> BuiltBatch | NotReady:
        """The batch of ``step``, or what it waits for after the timeout.

        Raises:
            NotAttachedError: no learner has attached since the start.
            BusError: the assembler ends, such as when the drops that the batch reports could not be published.
        """
        self._raise_failure()
        if not self.assembly.is_attached and self._stands.is_set():
            raise NotAttachedError("no learner has attached to this assembler yet")
        asked = self._asked.get(step)
        if asked is None:
            asked = self._asked[step] = Asked(answer=asyncio.get_running_loop().create_future())
            self._build()
        asked.num_ranks += 1
        try:
            await asyncio.wait((asked.answer,), timeout=timeout_seconds)
        finally:
            asked.num_ranks -= 1
            if asked.num_ranks == 0 and self._asked.get(step) is asked:
                del self._asked[step]
        if asked.answer.done():
            return asked.answer.result()
        return NotReady(waiting_for=self.assembly.waiting_for())

    async def commit(self, commit: Commit) -> None:
        """Publish the outcomes of steps that a durable checkpoint covers, and forget their batches.

        Raises:
            NotAttachedError: no learner has attached since the start.
            BusError: they could not be published; the assembler ends.
        """
        await self._stands.wait()
        self._raise_failure()
        outcomes = self.assembly.commit(commit)
        for step in [step for step in self._acknowledged if step <= commit.ledger.step]:
            del self._acknowledged[step]
        self._publish(outcomes)
        await asyncio.shield(self._flush())
        self._raise_failure()
        reach("commit.flushed")

    # The log's side ------------------------------------------------------------------------------

    async def run(self, stop: threading.Event) -> None:
        """Read the log and answer learners until told to stop.

        Raises:
            BusError: the log could not be read or written; the process has to be started again.
            UserError: the log was written under another contract.
        """
        try:
            while not stop.is_set():
                if self._failure is not None:
                    raise self._failure
                await self._work()
            self._has_ended_in_order = True
            self._fail(BusError("the assembler ends"))
        except Exception as error:
            self._fail(error)
            raise

    async def close(self) -> None:
        """Release whoever waits, the reader and the threads."""
        self._fail(BusError("the assembler ends"))
        if self._reader is not None:
            await self._in_thread(self._reading, self._reader.close)
        self._reading.shutdown()
        self._publishing.shutdown(wait=self._has_ended_in_order)

    def publish_aside(self, work: Callable[[], object]) -> asyncio.Future[object]:
        """Run what may wait for the broker on the publishing thread, in order; a failure ends the assembler."""
        done = self._in_thread(self._publishing, work)
        done.add_done_callback(self._note_failure)
        return done

    # Inside --------------------------------------------------------------------------------------

    async def _work(self) -> None:
        while self._attach_requests:
            await self._answer_attach(self._attach_requests[0])
            self._attach_requests.popleft()
        if self._reader is not None:
            await self._read(self._reader)
            return
        self._wake.clear()
        try:
            await asyncio.wait_for(self._wake.wait(), POLL_SECONDS)
        except TimeoutError:
            return  # to see whether it shall stop

    async def _read(self, reader: Reader) -> None:
        records = await self._in_thread(self._reading, lambda: reader.poll(POLL_SECONDS, MAX_RECORDS))
        now_seconds, now_ns = time.monotonic(), time.time_ns()
        outcomes: list[Outcome] = []
        for record in records:
            position = (record.topic, record.partition, record.offset)
            outcome = self.assembly.observe(record.event, position, now_seconds=now_seconds, now_ns=now_ns)
            if outcome is not None:
                outcomes.append(outcome)
        # What is in hand is joined before anything is given up: this process may have been frozen.
        outcomes += self.assembly.give_up_overdue(now_seconds=now_seconds, now_ns=now_ns)
        published = self._publish(outcomes)
        if records or outcomes:
            self._build()
        await published

    async def _answer_attach(self, request: WaitingLearner) -> None:
        if request.done.done():
            return  # the learner waits no longer
        error: Exception | None = None
        if not self.assembly.continues(request.ledger, request.world_size):
            try:
                await self._rebuild(request)
            except LedgerMismatchError as mismatch:
                error = mismatch
        if not request.done.done():
            request.done.set_result(None) if error is None else request.done.set_exception(error)

    async def _rebuild(self, request: WaitingLearner) -> None:
        self._stands.clear()
        for asked in self._asked.values():  # ranks of a learner that may be gone; those that live ask again
            _answer(asked, NotReady(waiting_for="the learner to ask again"))
        self._asked.clear()
        try:
            await self._flush()  # what was decided here is on the log before it is read
            outcomes = await self._in_thread(self._reading, self._read_outcomes)
            self.assembly.attach(request.ledger, outcomes, request.world_size)
            self._acknowledged.clear()
            old, self._reader = self._reader, None
            offsets = self.assembly.start_offsets(request.ledger)
            self._reader = await self._in_thread(self._reading, lambda: self._open_reader(old, offsets))
            reach("attach.rebuilt")
        finally:
            self._stands.set()
        self._build()

    def _read_outcomes(self) -> list[Outcome]:
        reader = self._bus.reader([OUTCOMES])
        try:
            return [record.event for record in reader.read_to_end()]
        finally:
            reader.close()

    def _open_reader(self, old: Reader | None, offsets: Mapping[tuple[str, int], int]) -> Reader:
        if old is not None:
            old.close()
        return self._bus.reader([ROLLOUTS, REWARDS], offsets=offsets)

    def _build(self) -> None:
        """Build the batches that ranks wait for and that can be built now."""
        if not (self._stands.is_set() and self.assembly.is_attached):
            return
        for step, asked in sorted(self._asked.items()):
            if asked.is_built:
                continue
            built, outcomes = self.assembly.next_batch(step, time.time_ns())
            self._publish(outcomes)
            if isinstance(built, BuiltBatch):
                asked.is_built = True
                task = asyncio.create_task(self._answer_when_acknowledged(asked, built))
                self._answers.add(task)
                task.add_done_callback(self._answers.discard)

    async def _answer_when_acknowledged(self, asked: Asked, built: BuiltBatch) -> None:
        """Answer when the drops that the batch reports are on the log, so that no learner settles them before."""
        if self._acknowledged.get(built.step) is not built:
            reach("batch.built")
            await asyncio.wait((self._flush(),))
            if self._failure is not None:
                return  # everybody who waits is told
            self._acknowledged[built.step] = built
        _answer(asked, built)

    def _publish(self, outcomes: Sequence[Outcome]) -> asyncio.Future[object]:
        return self.publish_aside(lambda: self._send(outcomes))

    def _send(self, outcomes: Sequence[Outcome]) -> None:
        for outcome in outcomes:
            self._bus.publish(OUTCOMES, outcome)

    def _flush(self) -> asyncio.Future[object]:
        return self.publish_aside(self._bus.flush)

    def _in_thread(self, threads: ThreadPoolExecutor, work: Callable[[], ResultT]) -> asyncio.Future[ResultT]:
        return asyncio.get_running_loop().run_in_executor(threads, work)

    def _note_failure(self, done: asyncio.Future[object]) -> None:
        error = None if done.cancelled() else done.exception()
        if isinstance(error, Exception):
            self._fail(error)

    def _fail(self, error: Exception) -> None:
        """End: whoever waits is told, and the loop raises the error."""
        if self._failure is not None:
            return
        self._failure = error
        told = BusError(str(error))
        for asked in self._asked.values():
            if not asked.answer.done():
                asked.answer.set_exception(told)
        for request in self._attach_requests:
            if not request.done.done():
                request.done.set_exception(told)
        self._stands.set()
        self._wake.set()

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise BusError(str(self._failure)) from self._failure


def _answer(asked: Asked, answer: BuiltBatch | NotReady) -> None:
    if not asked.answer.done():
        asked.answer.set_result(answer)

"""The assembler at work: one event loop that holds the assembly, and threads for whatever blocks.

    who waits     for what                             woken by
    next_batch    a batch, and that its drops are      the loop
                  on the log
    attach        that the log is read                 the loop
    commit        that, and the broker's               the publishing thread
                  acknowledgement
    the loop      records, or a learner                the reading thread

Only the loop touches the assembly, so it needs no lock, and nobody who waits occupies a thread. Kafka consumers
belong to one thread, the reading one; the publishing thread hands over and flushes in the order it was asked to.
A failure of the bus, wherever it happens, ends the assembler, and so does another one that took over: a new one
rebuilds all state from the log.
"""

import asyncio
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from tristream.assembler.assembly import Assembly
from tristream.assembler.errors import LedgerMismatchError
from tristream.assembler.learners import ServedLearner
from tristream.assembler.log_reading import LogReading
from tristream.assembler.shards import BuiltBatch
from tristream.assembler.waiting import Asked, AskedSteps, Held, LearnerStanding
from tristream.config.parts import AssemblerSettings
from tristream.runtime.bus.protocol import Bus, BusError
from tristream.runtime.errors import UserError
from tristream.runtime.hooks import reach
from tristream.wire.batches import Commit, NotReady
from tristream.wire.events import Ledger, Outcome
from tristream.wire.topics import OUTCOMES

ResultT = TypeVar("ResultT")

POLL_SECONDS = 0.1
"""Longest time that the loop waits for records before it looks at what else there is to do."""


class AssemblyService:
    """Serves the assembly of one run; all methods belong to one event loop."""

    def __init__(self, settings: AssemblerSettings, bus: Bus, lease: Held) -> None:
        self.assembly = Assembly(settings)
        self._bus = bus
        self._lease = lease
        self._learner = ServedLearner(settings.run.id)
        self._reading = ThreadPoolExecutor(1, thread_name_prefix="reader")
        self._publishing = ThreadPoolExecutor(1, thread_name_prefix="publisher")
        self._log: LogReading | None = None
        self._wanted: LearnerStanding | None = None
        """Where a learner stands for which the log is to be read."""
        self._refused: tuple[LearnerStanding, LedgerMismatchError] | None = None
        """The last one whose ledger does not belong to this log."""
        self._standing: LearnerStanding | None = None
        """The one for which the log was read last."""
        self._asked = AskedSteps()
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

    @property
    def epoch(self) -> int:
        """Epoch of this assembler."""
        return self._lease.epoch

    # The learner's side --------------------------------------------------------------------------

    async def attach(
        self, ledger: Ledger, world_size: int, *, epoch: int, instance: str, timeout_seconds: float
    ) -> NotReady | None:
        """Start, or go on, from where the learner stands; returns what that still waits for after the timeout.

        A learner that restarted while the assembler lived finds the batches after its checkpoint as they were, and
        of many ranks that attach with one ledger the first one alone has the log read.

        Raises:
            SupersededLearnerError: there is a newer learner.
            LedgerMismatchError: the log and the ledger belong to different histories.
            BusError: the log could not be read, or the assembler ends.
        """
        self._raise_failure()
        self._learner.admit(epoch, instance)
        standing = LearnerStanding(ledger=ledger, world_size=world_size)
        self._want(standing)
        await self._wait_until_it_stands(timeout_seconds)
        self._learner.check(epoch)
        if self._refused is not None and self._refused[0] == standing:
            raise self._refused[1]
        return None if self._stands.is_set() else NotReady(waiting_for=self.waiting_for())

    async def next_batch(self, step: int, *, epoch: int, timeout_seconds: float) -> BuiltBatch | NotReady:
        """The batch of ``step``, or what it waits for after the timeout.

        Raises:
            SupersededLearnerError: there is a newer learner.
            NotAttachedError: no learner has attached since the start.
            StepRefusedError: the step is committed, or not the next one.
            BusError: the assembler ends, such as when the drops that the batch reports could not be published.
        """
        self._raise_failure()
        self._learner.check(epoch)
        deadline = time.monotonic() + timeout_seconds
        await self._wait_until_it_stands(timeout_seconds)
        self._learner.check(epoch)
        if not self._stands.is_set():
            return NotReady(waiting_for=self.waiting_for())
        self.assembly.check_step(step)
        answer = self._asked.wait(step, deadline - time.monotonic())
        self._build()
        built = await answer
        self._learner.check(epoch)
        return NotReady(waiting_for=self.waiting_for()) if built is None else built

    async def commit(self, commit: Commit, *, epoch: int) -> None:
        """Publish the outcomes of steps that a durable checkpoint covers, and forget their batches.

        Raises:
            SupersededLearnerError: there is a newer learner.
            NotAttachedError: no learner has attached since the start.
            StepRefusedError: the checkpoint holds a step that was not served.
            BusError: they could not be published; the assembler ends.
        """
        self._raise_failure()
        self._learner.check(epoch)
        await self._stands.wait()
        self._raise_failure()
        self._learner.check(epoch)
        outcomes = self.assembly.commit(commit)
        for step in [step for step in self._acknowledged if step <= commit.ledger.step]:
            del self._acknowledged[step]
        self._publish(outcomes)
        await asyncio.shield(self._flush())
        self._raise_failure()
        reach("commit.flushed")

    def waiting_for(self) -> str:
        """What the next batch waits for, in words."""
        if not self._stands.is_set() and not self.assembly.reads_log:
            return "the log to be read"
        if self._log is not None and self._log.is_behind and not self.assembly.reads_log:
            return "records that are on the log already"
        return self.assembly.waiting_for()

    # The log's side ------------------------------------------------------------------------------

    async def run(self, stop: threading.Event) -> None:
        """Read the log and answer learners until told to stop.

        Raises:
            BusError: the log could not be read or written; the process has to be started again.
            UserError: the log was written under another contract, or another assembler has taken over.
        """
        try:
            while not stop.is_set():
                if self._failure is not None:
                    raise self._failure
                self._lease.check()
                await self._work()
            self._has_ended_in_order = True
            self._fail(BusError("the assembler ends"))
        except Exception as error:
            self._fail(error)
            raise

    async def close(self) -> None:
        """Release whoever waits, the reader and the threads."""
        self._fail(BusError("the assembler ends"))
        if self._log is not None:
            await self._in_thread(self._reading, self._log.close)
        self._reading.shutdown()
        self._publishing.shutdown(wait=self._has_ended_in_order)

    def publish_aside(self, work: Callable[[], object]) -> asyncio.Future[object]:
        """Run what may wait for the broker on the publishing thread, in order; a failure ends the assembler."""
        done = self._in_thread(self._publishing, work)
        done.add_done_callback(self._note_failure)
        return done

    # Inside --------------------------------------------------------------------------------------

    def _want(self, standing: LearnerStanding) -> None:
        """Have the log read for a learner, unless that is done, or under way, or was refused."""
        if self._refused is not None and self._refused[0] == standing:
            return
        if self._wanted is None:
            self.assembly.check_ledger(standing.ledger)
            if self.assembly.continues(standing.ledger, standing.world_size):
                return
        elif self._wanted == standing:
            return
        self._wanted = standing
        self._stands.clear()
        self._wake.set()

    async def _wait_until_it_stands(self, timeout_seconds: float) -> None:
        if self._stands.is_set():
            return
        try:
            await asyncio.wait_for(self._stands.wait(), timeout_seconds)
        except TimeoutError:
            return
        finally:
            self._raise_failure()

    async def _work(self) -> None:
        if self._wanted is not None:
            await self._rebuild()
        if self._log is not None:
            await self._read(self._log)
            return
        self._wake.clear()
        try:
            await asyncio.wait_for(self._wake.wait(), POLL_SECONDS)
        except TimeoutError:
            return  # to see whether it shall stop

    async def _rebuild(self) -> None:
        """Begin to read the log for the learner that attached last."""
        self._asked.send_away("the learner to ask again")  # one that may be gone; ranks that live ask again
        await self._flush()  # what was decided here is on the log before it is read
        log_id = await self._in_thread(self._reading, self._bus.log_id)
        standing, self._wanted = self._wanted, None
        if standing is None:
            return
        self._standing = standing
        starts = self.assembly.attach(standing.ledger, standing.world_size, log_id)
        self._acknowledged.clear()
        old, self._log = self._log, None
        if old is not None:
            await self._in_thread(self._reading, old.close)
        self._log = await self._in_thread(self._reading, lambda: LogReading(self._bus, starts))

    async def _read(self, log: LogReading) -> None:
        now_seconds = self._lease.log_seconds
        is_overdue = self.assembly.has_overdue(now_seconds)
        polled = await self._in_thread(
            self._reading, lambda: log.poll(POLL_SECONDS, now_seconds=now_seconds, is_overdue=is_overdue)
        )
        now_ns = time.time_ns()
        outcomes: list[Outcome] = []
        try:
            for position, fact in polled.facts:
                outcome = self.assembly.observe(fact, position, now_seconds=now_seconds, now_ns=now_ns)
                if outcome is not None:
                    outcomes.append(outcome)
        except LedgerMismatchError as error:
            self._refuse(error)
            return
        for status in polled.statuses:
            self._learner.take_status(status)
        if polled.passed_seconds is not None:
            if self.assembly.reads_log:
                outcomes += self.assembly.finish_reading()
                self._has_read()
            else:
                outcomes += self.assembly.give_up_overdue(now_seconds=polled.passed_seconds, now_ns=now_ns)
        published = self._publish(outcomes)
        if polled.facts or outcomes or polled.passed_seconds is not None:
            self._build()
        await published

    def _has_read(self) -> None:
        if self._wanted is None:
            self._refused = None
            self._stands.set()
        reach("attach.rebuilt")

    def _refuse(self, error: LedgerMismatchError) -> None:
        """The learner's ledger does not belong to this log; wait for another one."""
        if self._standing is not None:
            self._refused = (self._standing, error)
        self.assembly.detach()
        if self._wanted is None:
            self._stands.set()

    def _build(self) -> None:
        """Build the batches that ranks wait for and that can be built now."""
        if not (self._stands.is_set() and self.assembly.is_attached) or self._log is None or self._log.is_behind:
            return
        for step, asked in self._asked.unbuilt():
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
        asked.give(built)

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
        self._asked.fail(BusError(str(error)))
        self._stands.set()
        self._wake.set()

    def _raise_failure(self) -> None:
        if self._failure is None:
            try:
                self._lease.check()
            except UserError as error:  # another assembler has taken over, and the loop has not seen it yet
                self._fail(error)
        if self._failure is not None:
            raise BusError(str(self._failure)) from self._failure

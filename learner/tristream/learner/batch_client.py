"""The learner's end of the batch service: asks for batches, tells what is durable.

Every call is repeated for ever while the assembler cannot be reached or is not ready, and says so in the status.
Calls carry the learner's epoch; answers carry the assembler's, and one of an assembler that has a successor is not
taken. An assembler that restarted does not know the learner until rank 0 attaches again.
"""

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import NoReturn, Protocol, TypeVar

import grpc

from tristream.batches.v1 import batch_service_pb2, batch_service_pb2_grpc
from tristream.runtime.errors import StoppedError, UserError
from tristream.runtime.hooks import reach
from tristream.wire.batches import MAX_MESSAGE_BYTES, Batch, Commit, NotReady
from tristream.wire.codecs.batches import batch_from_message, commit_to_message
from tristream.wire.codecs.ledgers import ledger_to_message
from tristream.wire.events import Ledger

LOG = logging.getLogger("tristream.learner")

CALL_SECONDS = 30.0
"""Deadline of one call, after which it is repeated; longer than the assembler's long poll."""
COMMIT_SECONDS = 180.0
"""Deadline of a commit, whose answer waits for the broker."""
RETRY_SECONDS = 0.2
RETRIED = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED)
SUPERSEDED = (grpc.StatusCode.ABORTED, grpc.StatusCode.PERMISSION_DENIED)


class NotAttachedError(Exception):
    """The assembler does not know this learner: it has restarted."""


class StepRefusedError(Exception):
    """The assembler does not have this step: it stands elsewhere than the learner."""


class Answer(Protocol):
    """What every answer of the service carries."""

    assembler_epoch: int


RequestT = TypeVar("RequestT")
AnswerT = TypeVar("AnswerT", bound=Answer)


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """Who asks."""

    run: str
    world_size: int
    epoch: int
    instance: str
    """Name of the learner's process."""


class BatchClient:
    """One rank's connection to the assembler."""

    def __init__(
        self,
        address: str,
        caller: Caller,
        *,
        stop: threading.Event,
        report_waiting: Callable[[str], None],
        check: Callable[[], None] = lambda: None,
    ) -> None:
        """Connect to an address.

        Args:
            address: where the assembler listens.
            caller: who asks.
            stop: set when the process shall end.
            report_waiting: is told what is waited for.
            check: called again and again while waiting; raises if the learner has a successor.
        """
        self._address = address
        self._caller = caller
        self._stop = stop
        self._report_waiting = report_waiting
        self._check = check
        self._channel = grpc.insecure_channel(
            address,
            options=[
                ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
                ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
                ("grpc.keepalive_time_ms", 30_000),
                ("grpc.keepalive_timeout_ms", 10_000),
                ("grpc.initial_reconnect_backoff_ms", 100),
                ("grpc.min_reconnect_backoff_ms", 100),
                ("grpc.max_reconnect_backoff_ms", 1_000),
            ],
        )
        self._stub = batch_service_pb2_grpc.BatchServiceStub(self._channel)
        self.assembler_epoch = 0
        """Greatest epoch of an assembler that any rank has seen; answers of an earlier one are not taken."""

    def attach(self, ledger: Ledger) -> None:
        """Tell the assembler where the learner stands; returns when it stands there too. For rank 0.

        Raises:
            StoppedError: told to stop while waiting.
            UserError: another learner has taken over, the assembler serves another run, or its log belongs to
                another history.
        """
        request = batch_service_pb2.AttachRequest(
            run=self._caller.run,
            world_size=self._caller.world_size,
            ledger=ledger_to_message(ledger),
            epoch=self._caller.epoch,
            instance=self._caller.instance,
        )
        while not (answer := self._call(self._stub.Attach, request, CALL_SECONDS)).ready:
            self._report_waiting(answer.waiting_for)
            self._pause()

    def next_batch(self, step: int, rank: int) -> Batch:
        """The shard of ``rank`` for ``step``; waits for as long as it takes.

        Raises:
            NotAttachedError: rank 0 has to attach first.
            StepRefusedError: the assembler does not have this step.
            StoppedError: told to stop while waiting.
            UserError: another learner has taken over, or the assembler refuses the question.
        """
        request = batch_service_pb2.NextBatchRequest(step=step, rank=rank, epoch=self._caller.epoch)
        while True:
            started = time.monotonic()
            message = self._call(self._stub.NextBatch, request, CALL_SECONDS)
            answer = batch_from_message(message, step=step, rank=rank)
            if not isinstance(answer, NotReady):
                return answer
            self._report_waiting(answer.waiting_for)
            if time.monotonic() - started < RETRY_SECONDS:
                self._pause()

    def commit(self, commit: Commit) -> None:
        """Tell what a durable checkpoint covers; returns when the outcomes of its steps are on the log. For rank 0.

        Raises:
            StepRefusedError: the assembler does not have these steps, after attaching anew too.
            StoppedError: told to stop while the assembler could not be reached.
            UserError: another learner has taken over, or the assembler refuses it.
        """
        request = commit_to_message(commit)
        request.epoch = self._caller.epoch
        was_refused = False
        while True:
            try:
                self._call(self._stub.Commit, request, COMMIT_SECONDS)
            except NotAttachedError:
                self.attach(commit.ledger)
            except StepRefusedError:
                if was_refused:
                    raise
                was_refused = True
                self.attach(commit.ledger)
            else:
                reach("commit.sent")
                return

    def close(self) -> None:
        """Release the connection."""
        self._channel.close()

    def _call(
        self, method: "grpc.UnaryUnaryMultiCallable[RequestT, AnswerT]", request: RequestT, seconds: float
    ) -> AnswerT:
        """Call until an assembler without a successor answers; polled, so that a stop is seen at once."""
        while True:
            self._check()
            call = method.future(request, timeout=seconds, wait_for_ready=True)
            try:
                answer = self._result(call)
            except grpc.RpcError as error:
                if error.code() not in RETRIED:
                    self._refuse(error)
                self._report_waiting(f"the assembler at {self._address}")
            else:
                if answer.assembler_epoch >= self.assembler_epoch:
                    self.assembler_epoch = answer.assembler_epoch
                    return answer
                LOG.warning(
                    "an assembler of epoch %d answered, and epoch %d has taken over",
                    answer.assembler_epoch, self.assembler_epoch,
                )  # fmt: skip
                self._report_waiting(f"an assembler of epoch {self.assembler_epoch} at {self._address}")
            self._pause()

    def _refuse(self, error: grpc.RpcError) -> NoReturn:
        code, where = error.code(), f"assembler at {self._address}"
        if code is grpc.StatusCode.FAILED_PRECONDITION:
            raise NotAttachedError(str(error.details())) from None
        if code is grpc.StatusCode.OUT_OF_RANGE:
            raise StepRefusedError(str(error.details())) from None
        if code in SUPERSEDED:
            remedy = "let the learner that has taken over go on, or stop it first"
            raise UserError(str(error.details()), where=where, remedy=remedy) from None
        if code is grpc.StatusCode.INVALID_ARGUMENT:
            raise UserError(
                str(error.details()),
                where=where,
                remedy="use another run.id, or restore the newest checkpoint of this run",
            ) from None
        raise error

    def _result(self, call: "grpc.Future[AnswerT]") -> AnswerT:
        started = time.monotonic()
        while True:
            try:
                return call.result(timeout=RETRY_SECONDS)
            except grpc.FutureTimeoutError:
                if self._stop.is_set():
                    call.cancel()
                    raise StoppedError from None
                self._check()
                if time.monotonic() - started > 2 * RETRY_SECONDS:
                    self._report_waiting(f"an answer of the assembler at {self._address}")

    def _pause(self) -> None:
        if self._stop.wait(RETRY_SECONDS):
            raise StoppedError

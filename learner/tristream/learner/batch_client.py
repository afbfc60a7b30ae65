"""The learner's end of the batch service: asks for batches, tells what is durable.

Every call is retried for ever while the assembler cannot be reached, and says so in the status. An
assembler that restarted answers FAILED_PRECONDITION until a learner attaches; the client then attaches
with the learner's ledger as it is in memory, so that no group trained since the newest checkpoint is
served again, and repeats the call.
"""

import logging
import threading
import time
from collections.abc import Callable
from typing import TypeVar

import grpc

from tristream.batches.v1 import batch_service_pb2, batch_service_pb2_grpc
from tristream.runtime.errors import UserError
from tristream.runtime.hooks import reach
from tristream.wire.batches import MAX_MESSAGE_BYTES, Batch, Commit, NotReady
from tristream.wire.codecs.batches import batch_from_message, commit_to_message, ledger_to_message
from tristream.wire.ledger import Ledger

LOG = logging.getLogger("tristream.learner")

CALL_SECONDS = 30.0
"""Deadline of a call for a batch; longer than the assembler's long poll."""
ATTACH_SECONDS = 180.0
"""Deadline of an attach or a commit, which may read or write much of the log."""
RETRY_SECONDS = 0.2
RETRIED = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED)

RequestT = TypeVar("RequestT")
AnswerT = TypeVar("AnswerT")


class StoppedError(Exception):
    """The process was told to stop while it waited for the assembler."""


class BatchClient:
    """One rank's connection to the assembler."""

    def __init__(
        self,
        address: str,
        run: str,
        *,
        world_size: int,
        stop: threading.Event,
        report_waiting: Callable[[str], None],
    ) -> None:
        self._address = address
        self._run = run
        self._world_size = world_size
        self._stop = stop
        self._report_waiting = report_waiting
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
        self.ledger = Ledger(step=0)
        """Where the learner stands; kept current by its owner, for an assembler that restarts."""

    def attach(self, ledger: Ledger) -> None:
        """Tell the assembler where the learner stands.

        Raises:
            StoppedError: told to stop while waiting.
            UserError: the assembler serves another run, or its log belongs to another history.
        """
        self.ledger = ledger
        self._attach()

    def next_batch(self, step: int, rank: int) -> Batch:
        """The shard of ``rank`` for ``step``; waits for as long as it takes.

        Raises:
            StoppedError: told to stop while waiting.
        """
        request = batch_service_pb2.NextBatchRequest(step=step, rank=rank)
        while True:
            started = time.monotonic()
            message = self._attached_call(self._stub.NextBatch, request, CALL_SECONDS)
            answer = batch_from_message(message, step=step, rank=rank)
            if not isinstance(answer, NotReady):
                return answer
            self._report_waiting(answer.waiting_for)
            if time.monotonic() - started < RETRY_SECONDS:
                self._pause()

    def commit(self, commit: Commit) -> None:
        """Tell what a durable checkpoint covers; returns when the outcomes of its steps are on the log.

        Raises:
            StoppedError: told to stop while the assembler could not be reached.
        """
        self._attached_call(self._stub.Commit, commit_to_message(commit), ATTACH_SECONDS)
        reach("commit.sent")

    def close(self) -> None:
        """Release the connection."""
        self._channel.close()

    def _attach(self) -> None:
        request = batch_service_pb2.AttachRequest(
            run=self._run, world_size=self._world_size, ledger=ledger_to_message(self.ledger)
        )
        try:
            self._call(self._stub.Attach, request, ATTACH_SECONDS)
        except grpc.RpcError as error:
            if error.code() is not grpc.StatusCode.INVALID_ARGUMENT:
                raise
            raise UserError(
                str(error.details()),
                where=f"assembler at {self._address}",
                remedy="use another run.id, or restore the newest checkpoint of this run",
            ) from None

    def _attached_call(
        self, method: "grpc.UnaryUnaryMultiCallable[RequestT, AnswerT]", request: RequestT, seconds: float
    ) -> AnswerT:
        while True:
            try:
                return self._call(method, request, seconds)
            except grpc.RpcError as error:
                if error.code() is not grpc.StatusCode.FAILED_PRECONDITION:
                    raise
                LOG.info("the assembler restarted; attaching at step %d", self.ledger.step)
                self._attach()

    def _call(
        self, method: "grpc.UnaryUnaryMultiCallable[RequestT, AnswerT]", request: RequestT, seconds: float
    ) -> AnswerT:
        """Call until the assembler can be reached; polled, so that a stop is seen at once."""
        while True:
            call = method.future(request, timeout=seconds, wait_for_ready=True)
            try:
                return self._result(call)
            except grpc.RpcError as error:
                if error.code() not in RETRIED:
                    raise
            self._report_waiting(f"the assembler at {self._address}")
            self._pause()

    def _result(self, call: "grpc.Future[AnswerT]") -> AnswerT:
        started = time.monotonic()
        while True:
            try:
                return call.result(timeout=RETRY_SECONDS)
            except grpc.FutureTimeoutError:
                if self._stop.is_set():
                    call.cancel()
                    raise StoppedError from None
                if time.monotonic() - started > 2 * RETRY_SECONDS:
                    self._report_waiting(f"an answer of the assembler at {self._address}")

    def _pause(self) -> None:
        if self._stop.wait(RETRY_SECONDS):
            raise StoppedError

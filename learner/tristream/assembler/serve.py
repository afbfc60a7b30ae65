"""The gRPC face of the assembler: protobuf in, protobuf out, errors as status codes.

A synchronous server: each rank holds at most one call, and the state it asks is guarded by a lock
that a blocking Kafka thread shares, so an event loop would only add a hop.
"""

import logging
from concurrent.futures import ThreadPoolExecutor

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from tristream.assembler.assembler import Assembler, LedgerMismatchError, NotAttachedError
from tristream.batches.v1 import batch_service_pb2, batch_service_pb2_grpc
from tristream.runtime.bus.protocol import BusError
from tristream.runtime.errors import UserError
from tristream.wire import batches as batch_codecs
from tristream.wire.codecs import MalformedEventError

LOG = logging.getLogger("tristream.assembler")

MAX_MESSAGE_BYTES = 256 * 2**20
"""Largest shard of a rank."""
LONG_POLL_SECONDS = 5.0
"""A call that finds no batch answers after this time with what it waits for."""


class BatchServicer(batch_service_pb2_grpc.BatchServiceServicer):
    """Serves one assembler."""

    def __init__(self, assembler: Assembler, run: str) -> None:
        self._assembler = assembler
        self._run = run

    def Attach(  # noqa: N802 - the name is the rpc's
        self, request: batch_service_pb2.AttachRequest, context: grpc.ServicerContext
    ) -> batch_service_pb2.AttachResponse:
        """Take the learner's ledger."""
        if request.run != self._run:
            context.abort(
                grpc.StatusCode.INVALID_ARGUMENT, f"this assembler serves run '{self._run}', not '{request.run}'"
            )
        try:
            ledger = batch_codecs.ledger_from_message(request.ledger)
            self._assembler.attach(ledger, max(1, request.world_size))
        except (LedgerMismatchError, MalformedEventError) as error:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
        except BusError as error:
            context.abort(grpc.StatusCode.UNAVAILABLE, str(error))
        return batch_service_pb2.AttachResponse()

    def NextBatch(  # noqa: N802
        self, request: batch_service_pb2.NextBatchRequest, context: grpc.ServicerContext
    ) -> batch_service_pb2.NextBatchResponse:
        """Give a shard, or say what it waits for."""
        try:
            answer = self._assembler.next_batch(request.step, request.rank, LONG_POLL_SECONDS)
        except NotAttachedError as error:
            context.abort(grpc.StatusCode.FAILED_PRECONDITION, str(error))
        except BusError as error:
            context.abort(grpc.StatusCode.UNAVAILABLE, str(error))
        return batch_codecs.batch_to_message(answer)

    def Commit(  # noqa: N802
        self, request: batch_service_pb2.CommitRequest, context: grpc.ServicerContext
    ) -> batch_service_pb2.CommitResponse:
        """Publish the outcomes of durable steps."""
        try:
            steps = tuple(batch_codecs.committed_step_from_message(step) for step in request.steps)
            self._assembler.commit(steps, batch_codecs.ledger_from_message(request.ledger))
        except NotAttachedError as error:
            context.abort(grpc.StatusCode.FAILED_PRECONDITION, str(error))
        except MalformedEventError as error:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
        except BusError as error:
            context.abort(grpc.StatusCode.UNAVAILABLE, str(error))
        return batch_service_pb2.CommitResponse()


def serve_batches(assembler: Assembler, run: str, address: str) -> tuple[grpc.Server, int]:
    """Start the server; returns it with the port it listens on.

    Raises:
        UserError: the address is taken or not valid.
    """
    server = grpc.server(
        ThreadPoolExecutor(max_workers=16, thread_name_prefix="rank"),
        options=[
            ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
            ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
            ("grpc.so_reuseport", 0),
            ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
            ("grpc.http2.max_ping_strikes", 0),
        ],
    )
    batch_service_pb2_grpc.add_BatchServiceServicer_to_server(BatchServicer(assembler, run), server)
    servicer = health.HealthServicer()
    servicer.set("", health_pb2.HealthCheckResponse.SERVING)
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    try:
        port = server.add_insecure_port(address)
    except RuntimeError:
        port = 0
    if port == 0:
        raise UserError(
            f"cannot listen on {address}",
            where="[assembly] address",
            remedy="free the port, or give another address",
        )
    server.start()
    LOG.info("serving batches on %s", address)
    return server, port

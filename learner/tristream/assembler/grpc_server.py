"""The gRPC face of the assembler: protobuf in, protobuf out, errors as status codes.

A call that waits is a coroutine, so any number of ranks can wait. A shard is encoded in a thread of its own and
leaves as bytes, so that a large one keeps no other call waiting.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import grpc
from google.protobuf.message import Message
from grpc_health.v1 import health, health_pb2_grpc

from tristream.assembler.errors import (
    LedgerMismatchError,
    NotAttachedError,
    StepRefusedError,
    SupersededLearnerError,
)
from tristream.assembler.service import AssemblyService
from tristream.assembler.shards import BuiltBatch, shard
from tristream.batches.v1 import batch_service_pb2
from tristream.config.parts import AssemblerSettings
from tristream.runtime.bus.protocol import BusError
from tristream.runtime.errors import UserError
from tristream.wire.batches import MAX_MESSAGE_BYTES, NotReady
from tristream.wire.codecs.base import MalformedEventError, require
from tristream.wire.codecs.batches import batch_to_message, commit_from_message
from tristream.wire.codecs.ledgers import ledger_from_message

LOG = logging.getLogger("tristream.assembler")

RequestT = TypeVar("RequestT", bound=Message)
Context = grpc.aio.ServicerContext[Any, Any]

LONG_POLL_SECONDS = 5.0
"""A call that finds no batch answers after this time with what it waits for."""
SERVICE_NAME = batch_service_pb2.DESCRIPTOR.services_by_name["BatchService"].full_name
STATUS_CODES: Mapping[type[Exception], grpc.StatusCode] = {
    NotAttachedError: grpc.StatusCode.FAILED_PRECONDITION,
    LedgerMismatchError: grpc.StatusCode.INVALID_ARGUMENT,
    StepRefusedError: grpc.StatusCode.OUT_OF_RANGE,
    SupersededLearnerError: grpc.StatusCode.PERMISSION_DENIED,
    MalformedEventError: grpc.StatusCode.INVALID_ARGUMENT,
    BusError: grpc.StatusCode.UNAVAILABLE,
}


class BatchRpcs:
    """The calls of the batch service; each returns its answer as bytes."""

    def __init__(self, service: AssemblyService, settings: AssemblerSettings) -> None:
        self._service = service
        self._run = settings.run.id
        self._encoding = ThreadPoolExecutor(1, thread_name_prefix="encoder")

    async def attach(self, request: batch_service_pb2.AttachRequest) -> bytes:
        """Take the learner's ledger; say whether the assembler stands there, or what that waits for."""
        require(request.run == self._run, f"this assembler serves run '{self._run}', not '{request.run}'")
        not_ready = await self._service.attach(
            ledger_from_message(request.ledger),
            max(1, request.world_size),
            epoch=request.epoch,
            instance=request.instance,
            timeout_seconds=LONG_POLL_SECONDS,
        )
        return batch_service_pb2.AttachResponse(
            ready=not_ready is None,
            waiting_for="" if not_ready is None else not_ready.waiting_for,
            assembler_epoch=self._service.epoch,
        ).SerializeToString()

    async def next_batch(self, request: batch_service_pb2.NextBatchRequest) -> bytes:
        """Give a shard, or say what it waits for."""
        built = await self._service.next_batch(request.step, epoch=request.epoch, timeout_seconds=LONG_POLL_SECONDS)
        if isinstance(built, NotReady):
            return self._finish(batch_to_message(built))
        is_known = 0 <= request.rank < built.world_size
        require(is_known, f"there is no rank {request.rank} among {built.world_size}")
        return await asyncio.get_running_loop().run_in_executor(self._encoding, self._encode, built, request.rank)

    async def commit(self, request: batch_service_pb2.CommitRequest) -> bytes:
        """Publish the outcomes of durable steps."""
        await self._service.commit(commit_from_message(request), epoch=request.epoch)
        return batch_service_pb2.CommitResponse(assembler_epoch=self._service.epoch).SerializeToString()

    def _encode(self, built: BuiltBatch, rank: int) -> bytes:
        return self._finish(batch_to_message(shard(built, rank)))

    def _finish(self, response: batch_service_pb2.NextBatchResponse) -> bytes:
        response.assembler_epoch = self._service.epoch
        return response.SerializeToString()


def _handler(rpc: Callable[[RequestT], Awaitable[bytes]], request: type[RequestT]) -> "grpc.RpcMethodHandler[Any, Any]":
    async def answer(message: RequestT, context: Context) -> bytes:
        try:
            return await rpc(message)
        except tuple(STATUS_CODES) as error:
            await context.abort(STATUS_CODES[type(error)], str(error))

    return grpc.unary_unary_rpc_method_handler(answer, request_deserializer=request.FromString)


def make_server(address: str) -> tuple[grpc.aio.Server, str]:
    """Take the address; returns the server, which is not started, with the address, whose port is real.

    Raises:
        UserError: the address is taken or not valid.
    """
    server = grpc.aio.server(
        options=[
            ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
            ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
            ("grpc.so_reuseport", 0),
            ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
            ("grpc.http2.max_ping_strikes", 0),
        ],
    )
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
    return server, f"{address.rpartition(':')[0]}:{port}"


async def serve_batches(server: grpc.aio.Server, service: AssemblyService, settings: AssemblerSettings) -> None:
    """Start to answer."""
    rpcs = BatchRpcs(service, settings)
    handlers = {
        "Attach": _handler(rpcs.attach, batch_service_pb2.AttachRequest),
        "NextBatch": _handler(rpcs.next_batch, batch_service_pb2.NextBatchRequest),
        "Commit": _handler(rpcs.commit, batch_service_pb2.CommitRequest),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE_NAME, handlers),))
    health_pb2_grpc.add_HealthServicer_to_server(health.aio.HealthServicer(), server)
    await server.start()
    LOG.info("serving batches")

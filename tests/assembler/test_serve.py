"""The batch service over a real gRPC channel: errors are status codes, a taken address is one line."""

from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from assembly import ledger_after, make_settings, publish_group, running
from tristream.assembler.assembler import Assembler
from tristream.assembler.serve import serve_batches
from tristream.batches.v1 import batch_service_pb2, batch_service_pb2_grpc
from tristream.runtime.bus.memory import MemoryBus
from tristream.runtime.errors import UserError
from tristream.wire import batches as batch_codecs
from tristream.wire.batches import Batch
from tristream.wire.ledger import Ledger

Stub = batch_service_pb2_grpc.BatchServiceStub


@pytest.fixture
def stub(tmp_path: Path) -> Iterator[Stub]:
    bus = MemoryBus("test")
    for number in range(2):
        publish_group(bus, number)
    with running(Assembler(make_settings(tmp_path), bus)) as assembler:
        server, port = serve_batches(assembler, "test", "127.0.0.1:0")
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            yield Stub(channel)
        server.stop(None).wait()


def attach(stub: Stub, run: str = "test") -> None:
    ledger = batch_codecs.ledger_to_message(Ledger(step=0))
    stub.Attach(batch_service_pb2.AttachRequest(run=run, world_size=1, ledger=ledger), timeout=10)


def test_a_batch_crosses_the_wire_as_it_was_built(stub: Stub) -> None:
    attach(stub)
    answers = [stub.NextBatch(batch_service_pb2.NextBatchRequest(step=1, rank=0), timeout=10) for _ in range(2)]
    first, again = (batch_codecs.batch_from_message(answer, step=1, rank=0) for answer in answers)
    assert isinstance(first, Batch)
    assert first == again
    assert first.trained == (0, 1)
    assert first.groups[0].rollouts[0].logprobs == (-0.5, -0.25)
    ledger = batch_codecs.ledger_to_message(ledger_after(first))
    stub.Commit(batch_service_pb2.CommitRequest(steps=[], ledger=ledger), timeout=10)


def test_asking_before_attaching_is_a_failed_precondition(stub: Stub) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        stub.NextBatch(batch_service_pb2.NextBatchRequest(step=1, rank=0), timeout=10)
    assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION


def test_another_run_is_an_invalid_argument(stub: Stub) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        attach(stub, run="other")
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "serves run 'test'" in str(caught.value.details())


def test_an_assembler_that_ends_is_unavailable_so_that_the_learner_asks_its_successor(tmp_path: Path) -> None:
    assembler = Assembler(make_settings(tmp_path), MemoryBus("test"))
    assembler.close()
    server, port = serve_batches(assembler, "test", "127.0.0.1:0")
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel, pytest.raises(grpc.RpcError) as caught:
        attach(Stub(channel))
    server.stop(None).wait()
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


def test_a_taken_address_is_a_user_error(tmp_path: Path) -> None:
    assembler = Assembler(make_settings(tmp_path), MemoryBus("test"))
    server, port = serve_batches(assembler, "test", "127.0.0.1:0")
    with pytest.raises(UserError, match=f"cannot listen on 127.0.0.1:{port}"):
        serve_batches(assembler, "test", f"127.0.0.1:{port}")
    server.stop(None).wait()

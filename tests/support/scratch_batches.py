"""A batch service of its own, for tests of the learner without an assembler."""

import random
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import grpc

from training_groups import make_groups, make_outcome
from tristream.batches.v1 import batch_service_pb2, batch_service_pb2_grpc
from tristream.wire.batches import Batch, CommittedStep, NotReady
from tristream.wire.codecs.batches import batch_to_message, commit_from_message, ledger_from_message
from tristream.wire.ledger import Ledger, PartitionOffset

GROUPS_PER_STEP = 2


class ScratchBatches(batch_service_pb2_grpc.BatchServiceServicer):
    """A batch service whose batches are a function of the step; it forgets its learner when told to."""

    def __init__(self) -> None:
        self.world_size = 1
        self.attached: list[Ledger] = []
        self.committed: list[CommittedStep] = []
        self.is_attached = False
        self.forget_at: int | None = None
        self.stop_at: tuple[int, threading.Event] | None = None

    def Attach(  # noqa: N802
        self, request: batch_service_pb2.AttachRequest, context: grpc.ServicerContext
    ) -> batch_service_pb2.AttachResponse:
        self.attached.append(ledger_from_message(request.ledger))
        self.world_size = request.world_size
        self.is_attached = True
        return batch_service_pb2.AttachResponse()

    def NextBatch(  # noqa: N802
        self, request: batch_service_pb2.NextBatchRequest, context: grpc.ServicerContext
    ) -> batch_service_pb2.NextBatchResponse:
        if self.forget_at == request.step:
            self.is_attached, self.forget_at = False, None
        if not self.is_attached:
            context.abort(grpc.StatusCode.FAILED_PRECONDITION, "nobody has attached")
        if self.stop_at is not None and self.stop_at[0] == request.step:
            self.stop_at[1].set()
            return batch_to_message(NotReady(waiting_for="a stop"))
        return batch_to_message(self.batch(request.step, request.rank))

    def Commit(  # noqa: N802
        self, request: batch_service_pb2.CommitRequest, context: grpc.ServicerContext
    ) -> batch_service_pb2.CommitResponse:
        self.committed.extend(commit_from_message(request).steps)
        return batch_service_pb2.CommitResponse()

    def batch(self, step: int, rank: int = 0) -> Batch:
        first = (step - 1) * (GROUPS_PER_STEP + 1)
        groups = make_groups(GROUPS_PER_STEP, seed=step, first=first, num_turns=2)
        rollouts = [rollout for group in groups for rollout in group.rollouts]
        generator = random.Random(step)
        return Batch(
            step=step,
            rank=rank,
            groups=groups[rank :: self.world_size],
            outcomes=tuple(make_outcome(generator, group, step) for group in groups),
            num_global_tokens=sum(rollout.num_sampled_tokens for rollout in rollouts),
            num_global_rollouts=len(rollouts),
            dropped=(first + GROUPS_PER_STEP,),
            offsets=(PartitionOffset(topic="rollouts", partition=0, offset=step),),
            num_micro_batches=2,
        )


@contextmanager
def serving_scratch_batches() -> Iterator[tuple[ScratchBatches, str]]:
    """The service and its address, while the block runs."""
    servicer = ScratchBatches()
    server = grpc.server(ThreadPoolExecutor(max_workers=4))
    batch_service_pb2_grpc.add_BatchServiceServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield servicer, f"127.0.0.1:{port}"
    finally:
        server.stop(grace=None)

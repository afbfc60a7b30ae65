"""A batch service of its own, for tests of the learner without an assembler."""

import random
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace

import grpc

from training_groups import make_groups, make_outcome
from tristream.batches.v1 import batch_service_pb2, batch_service_pb2_grpc
from tristream.wire.batches import Batch, CommittedStep, NotReady
from tristream.wire.codecs.batches import batch_to_message, commit_from_message
from tristream.wire.codecs.ledgers import ledger_from_message
from tristream.wire.events import Ledger, LogPosition, PartitionOffset

GROUPS_PER_STEP = 2


class ScratchBatches(batch_service_pb2_grpc.BatchServiceServicer):
    """A batch service whose batches are a function of the step; it does what it is told to."""

    def __init__(self) -> None:
        self.world_size = 1
        self.attached: list[Ledger] = []
        self.committed: list[CommittedStep] = []
        self.epochs: list[int] = []
        """Epoch of the learner in each call."""
        self.is_attached = False
        self.epoch = 1
        """Its own epoch."""
        self.forget_at: int | None = None
        """Step at whose batch it is as one that restarted."""
        self.stop_at: tuple[int, threading.Event] | None = None
        """Step at whose batch it stops the learner."""
        self.num_not_ready = 0
        """Attaches that are answered with a wait."""
        self.superseded_at: int | None = None
        """Step at whose batch it knows a newer learner."""
        self.spoil: Callable[[Batch], Batch] = lambda batch: batch
        """What it makes of a batch before it gives it away."""
        self.fail_commit: Callable[[], None] = lambda: None

    def Attach(  # noqa: N802
        self, request: batch_service_pb2.AttachRequest, context: grpc.ServicerContext
    ) -> batch_service_pb2.AttachResponse:
        self.epochs.append(request.epoch)
        if self.num_not_ready > 0:
            self.num_not_ready -= 1
            return batch_service_pb2.AttachResponse(
                ready=False, waiting_for="the log: 1 of 2 records", assembler_epoch=self.epoch
            )
        self.attached.append(ledger_from_message(request.ledger))
        self.world_size = request.world_size
        self.is_attached = True
        return batch_service_pb2.AttachResponse(ready=True, assembler_epoch=self.epoch)

    def NextBatch(  # noqa: N802
        self, request: batch_service_pb2.NextBatchRequest, context: grpc.ServicerContext
    ) -> batch_service_pb2.NextBatchResponse:
        self.epochs.append(request.epoch)
        if self.forget_at == request.step:
            self.is_attached, self.forget_at = False, None
        if not self.is_attached:
            context.abort(grpc.StatusCode.FAILED_PRECONDITION, "nobody has attached")
        if self.superseded_at == request.step:
            context.abort(grpc.StatusCode.ABORTED, f"a learner of epoch {request.epoch + 1} has attached")
        if self.stop_at is not None and self.stop_at[0] == request.step:
            self.stop_at[1].set()
            answer = batch_to_message(NotReady(waiting_for="a stop"))
        else:
            answer = batch_to_message(self.spoil(self.batch(request.step, request.rank)))
        answer.assembler_epoch = self.epoch
        return answer

    def Commit(  # noqa: N802
        self, request: batch_service_pb2.CommitRequest, context: grpc.ServicerContext
    ) -> batch_service_pb2.CommitResponse:
        self.epochs.append(request.epoch)
        self.fail_commit()
        self.committed.extend(commit_from_message(request).steps)
        return batch_service_pb2.CommitResponse(assembler_epoch=self.epoch)

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
            position=LogPosition(log_id="log", offsets=(PartitionOffset(topic="rollouts", partition=0, offset=step),)),
        )


def without_its_last_group(batch: Batch) -> Batch:
    """A step that is short of a group."""
    return replace(batch, groups=batch.groups[:-1], outcomes=batch.outcomes[:-1])


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

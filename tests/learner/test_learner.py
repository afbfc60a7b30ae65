import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest
import torch

from tristream.batches.v1 import batch_service_pb2, batch_service_pb2_grpc
from tristream.config.run_file import RunFile
from tristream.learner.checkpoints import find_checkpoints
from tristream.learner.main import build_learner
from tristream.learner.training.distributed import start_process_group
from tristream.runtime.bus.memory import MemoryBus
from tristream.runtime.errors import UserError
from tristream.wire import batches as batch_codecs
from tristream.wire.batches import Batch, CommittedStep, NotReady, TrainingGroup
from tristream.wire.events import PolicyVersion, StepReport
from tristream.wire.ledger import IntervalSet, Ledger, PartitionOffset
from tristream.wire.topics import POLICY, STEPS

MakeGroups = Callable[..., tuple[TrainingGroup, ...]]
GROUPS_PER_STEP = 2


class ScratchBatches(batch_service_pb2_grpc.BatchServiceServicer):
    """A batch service whose batches are a function of the step; it forgets its learner when told to."""

    def __init__(self, make_groups: MakeGroups) -> None:
        self.make_groups = make_groups
        self.attached: list[Ledger] = []
        self.committed: list[CommittedStep] = []
        self.is_attached = False
        self.forget_at: int | None = None
        self.stop_at: tuple[int, threading.Event] | None = None

    def Attach(  # noqa: N802
        self, request: batch_service_pb2.AttachRequest, context: grpc.ServicerContext
    ) -> batch_service_pb2.AttachResponse:
        self.attached.append(batch_codecs.ledger_from_message(request.ledger))
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
            return batch_codecs.batch_to_message(NotReady(waiting_for="a stop"))
        return batch_codecs.batch_to_message(self.batch(request.step))

    def Commit(  # noqa: N802
        self, request: batch_service_pb2.CommitRequest, context: grpc.ServicerContext
    ) -> batch_service_pb2.CommitResponse:
        self.committed.extend(batch_codecs.committed_step_from_message(step) for step in request.steps)
        return batch_service_pb2.CommitResponse()

    def batch(self, step: int) -> Batch:
        first = (step - 1) * (GROUPS_PER_STEP + 1)
        groups = self.make_groups(GROUPS_PER_STEP, seed=step, first=first)
        rollouts = [rollout for group in groups for rollout in group.rollouts]
        return Batch(
            step=step,
            rank=0,
            groups=groups,
            num_global_tokens=sum(len(rollout.completion_tokens) for rollout in rollouts),
            num_global_rollouts=len(rollouts),
            dropped=(first + GROUPS_PER_STEP,),
            trained=tuple(group.group.number for group in groups),
            offsets=(PartitionOffset(topic="rollouts", partition=0, offset=step),),
            num_micro_batches=2,
        )


@pytest.fixture
def batches(make_groups: MakeGroups) -> Iterator[tuple[ScratchBatches, str]]:
    servicer = ScratchBatches(make_groups)
    server = grpc.server(ThreadPoolExecutor(max_workers=4))
    batch_service_pb2_grpc.add_BatchServiceServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield servicer, f"127.0.0.1:{port}"
    server.stop(grace=None)


def settings_for(model: Path, output: Path, address: str, *, steps: int = 4, seed: int = 1) -> RunFile:
    return RunFile.model_validate(
        {
            "run": {"id": "test", "steps": steps, "output": output, "seed": seed},
            "model": {"path": model, "freeze": ["model.visual."]},
            "sources": [{"name": "shapes", "train": "train.parquet"}],
            "assembly": {"address": address},
            "learner": {"learning_rate": 1e-3, "checkpoint_every": 2, "keep_checkpoints": 2, "warmup_steps": 1},
            "evaluation": {"every": 2},
            "rollout": {"max_staleness": 0},
        }
    )


def run_learner(settings: RunFile, bus: MemoryBus, stop: threading.Event | None = None) -> None:
    start_process_group()
    build_learner(
        settings, rank=0, world_size=1, bus=bus, status=None, stop=threading.Event() if stop is None else stop
    ).run()


def versions_on(bus: MemoryBus) -> list[PolicyVersion]:
    return [record.event for record in bus.reader([POLICY]).read_to_end()]


def reports_on(bus: MemoryBus) -> list[StepReport]:
    return [record.event for record in bus.reader([STEPS]).read_to_end()]


def test_a_run_trains_publishes_checkpoints_and_commits_each_step_once(
    vision_checkpoint: Path, batches: tuple[ScratchBatches, str], tmp_path: Path
) -> None:
    servicer, address = batches
    servicer.forget_at = 4  # an assembler that restarted
    bus = MemoryBus("test")
    run_learner(settings_for(vision_checkpoint, tmp_path, address), bus)
    versions = versions_on(bus)
    assert [version.weights.version for version in versions] == [0, 1, 2, 3, 4]
    assert len({version.weights.sha256 for version in versions}) == 5
    assert [step.step for step in servicer.committed] == [1, 2, 3, 4]
    assert [ledger.step for ledger in servicer.attached] == [0, 3], "the ledger in memory, not that of the checkpoint"
    assert len(IntervalSet(servicer.attached[1].settled)) == 9
    assert [len(IntervalSet(version.settled)) for version in versions] == [0, 0, 0, 6, 6]
    reports = reports_on(bus)
    assert [report.step for report in reports] == [1, 2, 3, 4]
    assert reports[0].metrics["learning_rate"] == pytest.approx(0.5e-3)
    assert reports[0].metrics["grad_norm"] > 0
    assert len(reports[0].rollouts) == 8
    assert reports[0].max_age == 1
    assert not any("visual" in layer for layer in reports[0].layer_grad_norms)
    assert [path.name for path in find_checkpoints(tmp_path / "test" / "checkpoints")] == ["step-000002", "step-000004"]


def test_frozen_weights_stay_as_they_were_and_published_weights_load(
    vision_checkpoint: Path, batches: tuple[ScratchBatches, str], tmp_path: Path
) -> None:
    from safetensors.torch import load_file
    from transformers import AutoModelForImageTextToText

    bus = MemoryBus("test")
    run_learner(settings_for(vision_checkpoint, tmp_path, batches[1], steps=2), bus)
    before, after = (load_file(version.weights.uri) for version in (versions_on(bus)[0], versions_on(bus)[-1]))
    assert before.keys() == after.keys()
    for name, tensor in before.items():
        assert torch.equal(tensor, after[name]) == name.startswith("model.visual."), name
    model = AutoModelForImageTextToText.from_pretrained(vision_checkpoint)
    assert not model.load_state_dict(after, strict=False).unexpected_keys


def test_a_stopped_run_resumes_to_bit_identical_weights(
    vision_checkpoint: Path, batches: tuple[ScratchBatches, str], tmp_path: Path
) -> None:
    servicer, address = batches
    whole, stopped, resumed = MemoryBus("test"), MemoryBus("test"), MemoryBus("test")
    run_learner(settings_for(vision_checkpoint, tmp_path / "whole", address), whole)
    stop = threading.Event()
    servicer.stop_at = (4, stop)
    servicer.committed.clear()
    run_learner(settings_for(vision_checkpoint, tmp_path / "parts", address), stopped, stop)
    servicer.stop_at = None
    assert [version.weights.version for version in versions_on(stopped)] == [0, 1, 2, 3]
    run_learner(settings_for(vision_checkpoint, tmp_path / "parts", address), resumed)
    assert [version.weights.version for version in versions_on(resumed)] == [3, 4]
    assert versions_on(resumed)[-1].weights.sha256 == versions_on(whole)[-1].weights.sha256
    assert {step.step for step in servicer.committed} == {1, 2, 3, 4}


def test_a_checkpoint_of_another_run_is_refused_by_name(
    vision_checkpoint: Path, batches: tuple[ScratchBatches, str], tmp_path: Path
) -> None:
    run_learner(settings_for(vision_checkpoint, tmp_path, batches[1], steps=2), MemoryBus("test"))
    with pytest.raises(UserError, match="seed was 1 and is 2"):
        run_learner(settings_for(vision_checkpoint, tmp_path, batches[1], steps=2, seed=2), MemoryBus("test"))


def test_only_evaluated_and_newest_weights_are_kept(
    vision_checkpoint: Path, batches: tuple[ScratchBatches, str], tmp_path: Path
) -> None:
    run_learner(settings_for(vision_checkpoint, tmp_path, batches[1], steps=6), MemoryBus("test"))
    kept = sorted(int(path.parent.name) for path in (tmp_path / "test" / "store" / "weights").glob("*/*"))
    assert kept == [0, 2, 4, 5, 6]

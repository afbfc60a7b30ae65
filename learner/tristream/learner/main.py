"""The learner as a process: one rank, alone or under torchrun."""

import logging
import random
import threading

import torch

from tristream.config.parts import LearnerSettings
from tristream.learner.batch_client import BatchClient
from tristream.learner.checkpoints import RunIdentity
from tristream.learner.learner import Connections, Learner
from tristream.learner.training.deepspeed_engine import TrainingEngine
from tristream.learner.training.distributed import start_process_group
from tristream.learner.training.trained_policy import count_parameters, load_policy
from tristream.learner.weights import model_fingerprint
from tristream.runtime.bus.kafka import KafkaBus
from tristream.runtime.bus.protocol import Bus
from tristream.runtime.part import start_part
from tristream.runtime.status import PartReporter
from tristream.runtime.store import open_store
from tristream.wire.events import Part, PartState
from tristream.wire.topics import PARTS

LOG = logging.getLogger("tristream.learner")


def main(settings: LearnerSettings) -> None:
    """Train until the last step, or until SIGTERM.

    Raises:
        UserError: the model, the checkpoint or an address is not usable, or the disk is full.
    """
    _, stop = start_part(Part.LEARNER)
    rank, world_size = start_process_group()
    bus: Bus | None = None
    reporter: PartReporter | None = None
    if rank == 0:
        reporter = PartReporter(settings.run.folder, settings.run.id, Part.LEARNER)
        reporter.report(PartState.STARTING, "the model", measures={"num_ranks": float(world_size)})
        kafka = bus = KafkaBus(settings.run.id, settings.bus, Part.LEARNER)
        kafka.create_topics()
        reporter.connect(lambda status: kafka.tell(PARTS, status))
    learner = build_learner(settings, rank=rank, world_size=world_size, bus=bus, reporter=reporter, stop=stop)
    LOG.info("rank %d of %d is ready", rank, world_size)
    try:
        learner.run()
    finally:
        if bus is not None:
            bus.close()
        torch.distributed.destroy_process_group()


def build_learner(
    settings: LearnerSettings,
    *,
    rank: int,
    world_size: int,
    bus: Bus | None,
    reporter: PartReporter | None,
    stop: threading.Event,
) -> Learner:
    """Load the policy and connect one rank; needs the process group.

    Raises:
        UserError: the model cannot be loaded or frozen as the run file says.
    """
    torch.set_num_threads(settings.learner.num_threads)
    random.seed(settings.run.seed)
    torch.manual_seed(settings.run.seed)
    policy = load_policy(
        settings.model.path,
        precision=settings.model.precision,
        freeze=settings.model.freeze,
        logprob_chunk_tokens=settings.learner.logprob_chunk_tokens,
    )
    counts = count_parameters(policy)
    LOG.info("%d parameters are trained, %d are frozen", counts.trained, counts.frozen)

    def report_waiting(what: str) -> None:
        if reporter is not None:
            reporter.report(PartState.READY, what)

    client = BatchClient(
        settings.assembly.address, settings.run.id, world_size=world_size, stop=stop, report_waiting=report_waiting
    )
    store = open_store(settings.store, settings.run.folder)
    connections = Connections(rank=rank, bus=bus, store=store, client=client, reporter=reporter)
    engine = TrainingEngine(policy, settings.learner, precision=settings.model.precision)
    return Learner(settings, engine, connections, run_identity(settings, world_size))


def run_identity(settings: LearnerSettings, world_size: int) -> RunIdentity:
    """What a checkpoint of this run must agree with."""
    return RunIdentity(
        run=settings.run.id,
        seed=settings.run.seed,
        total_steps=settings.run.steps,
        model=model_fingerprint(settings.model.path),
        world_size=world_size,
        zero_stage=settings.learner.zero_stage,
        precision=settings.model.precision,
    )

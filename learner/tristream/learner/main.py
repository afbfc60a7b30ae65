"""The learner as a process: one rank, alone or under torchrun."""

import random
import threading

import torch

from tristream.config.run_file import RunFile
from tristream.learner.batch_client import BatchClient
from tristream.learner.checkpoints import RunIdentity
from tristream.learner.learner import Learner, Place
from tristream.learner.training.deepspeed_engine import PolicyEngine
from tristream.learner.training.distributed import start_process_group
from tristream.learner.training.trained_policy import count_parameters, load_policy
from tristream.learner.weights import model_fingerprint
from tristream.runtime.bus.kafka import KafkaBus
from tristream.runtime.bus.protocol import Bus
from tristream.runtime.part import log_to_stderr, stop_on_signals
from tristream.runtime.status import StatusFile
from tristream.runtime.store import BlobStore


def main(settings: RunFile) -> None:
    """Train until the last step, or until SIGTERM.

    Raises:
        UserError: the model, the checkpoint or an address is not usable, or the disk is full.
    """
    log = log_to_stderr("learner")
    stop = stop_on_signals()
    rank, world_size = start_process_group()
    status = StatusFile(settings.status_folder, "learner") if rank == 0 else None
    if status is not None:
        status.report("starting", "the model", num_ranks=world_size)
    bus = KafkaBus(settings, "learner") if rank == 0 else None
    if bus is not None:
        bus.create_topics()
    learner = build_learner(settings, rank=rank, world_size=world_size, bus=bus, status=status, stop=stop)
    log.info("rank %d of %d is ready", rank, world_size)
    try:
        learner.run()
    finally:
        if bus is not None:
            bus.close()
        torch.distributed.destroy_process_group()


def build_learner(
    settings: RunFile,
    *,
    rank: int,
    world_size: int,
    bus: Bus | None,
    status: StatusFile | None,
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
        precision=settings.learner.precision,
        freeze=settings.model.freeze,
        logprob_chunk_tokens=settings.learner.logprob_chunk_tokens,
    )
    counts = count_parameters(policy)
    log_to_stderr("learner").info("%d parameters are trained, %d are frozen", counts.trained, counts.frozen)

    def report_waiting(what: str) -> None:
        if status is not None:
            status.report("ready", what)

    client = BatchClient(
        settings.assembly.address, settings.run.id, world_size=world_size, stop=stop, report_waiting=report_waiting
    )
    identity = RunIdentity(
        run=settings.run.id,
        seed=settings.run.seed,
        total_steps=settings.run.steps,
        model=model_fingerprint(settings.model.path),
        world_size=world_size,
        zero_stage=settings.learner.zero_stage,
        precision=settings.learner.precision,
    )
    place = Place(
        rank=rank,
        world_size=world_size,
        bus=bus,
        store=BlobStore(settings.store_uri),
        client=client,
        status=status,
        identity=identity,
    )
    return Learner(settings, PolicyEngine(policy, settings.learner), place)

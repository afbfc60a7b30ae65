"""The learner as a process: one rank, alone or under torchrun."""

import logging
import random
import threading
from collections.abc import Callable
from contextlib import ExitStack

import torch

from tristream.config.parts import LearnerSettings
from tristream.learner.batch_client import BatchClient, Caller
from tristream.learner.checkpoints import RunIdentity, newest_epoch
from tristream.learner.learner import Connections, Learner
from tristream.learner.publishing import Office
from tristream.learner.ranks import Ranks
from tristream.learner.training.deepspeed_engine import TrainingEngine
from tristream.learner.training.distributed import learner_device, start_process_group
from tristream.learner.training.flops import model_flops
from tristream.learner.training.policy_check import check_policy
from tristream.learner.training.trained_policy import count_parameters, load_policy
from tristream.learner.weights import model_fingerprint
from tristream.runtime.bus.kafka import KafkaBus
from tristream.runtime.bus.protocol import Bus
from tristream.runtime.errors import StoppedError
from tristream.runtime.lease import Lease
from tristream.runtime.metrics_server import serve_metrics
from tristream.runtime.part import start_part
from tristream.runtime.status import PartReporter
from tristream.runtime.store import open_store
from tristream.wire.events import Part, PartState
from tristream.wire.topics import POLICY, STEPS

LOG = logging.getLogger("tristream.learner")


def main(settings: LearnerSettings) -> None:
    """Train until the last step, or until SIGTERM.

    Raises:
        UserError: the model, the checkpoint or an address is not usable, or another learner has the run.
        BusError: the broker does not take what is published.
        TryAgainError: the assembler gives what must not be trained, or another rank failed.
    """
    _, stop = start_part(Part.LEARNER)
    rank, world_size = start_process_group()
    reporter = PartReporter(settings.run.folder, settings.run.id, Part.LEARNER) if rank == 0 else None
    if reporter is not None:
        serve_metrics(reporter, settings.metrics)

    def connect(say: Callable[[str], None]) -> Bus:
        return KafkaBus(settings.run.id, settings.bus, Part.LEARNER, stop=stop, say=say)

    try:
        run_rank(settings, connect, reporter, rank=rank, world_size=world_size, stop=stop)
    except StoppedError:
        LOG.info("told to stop before there was anything to do")
    finally:
        torch.distributed.destroy_process_group()


def run_rank(
    settings: LearnerSettings,
    connect: Callable[[Callable[[str], None]], Bus],
    reporter: PartReporter | None,
    *,
    rank: int,
    world_size: int,
    stop: threading.Event,
) -> None:
    """Run one rank to its end.

    Args:
        settings: of the run.
        connect: makes the bus of rank 0; is given what to call with what it waits for, in words.
        reporter: of rank 0; None on the others.
        rank: which rank it is.
        world_size: number of ranks.
        stop: ends it in order.

    Raises:
        StoppedError: told to stop before it had taken over.
        UserError, BusError, TryAgainError: as ``main``.
    """
    office: Office | None = None

    def report_waiting(what: str) -> None:
        if reporter is not None:
            reporter.report(PartState.STARTING if office is None else PartState.READY, what)

    with ExitStack() as open_things:

        def take_office() -> int:
            nonlocal office
            assert reporter is not None, "rank 0 has one"
            reporter.report(PartState.STARTING, "the broker", measures={"num_ranks": float(world_size)})
            bus = connect(report_waiting)
            open_things.callback(bus.close)
            office = open_office(settings, bus, reporter, stop)
            open_things.callback(office.lease.close)
            reporter.report(PartState.STARTING, "the model")
            return office.lease.epoch

        ranks = Ranks(rank, world_size, stop=stop, report_waiting=report_waiting)
        epoch = ranks.on_rank_0(take_office)
        learner = build_learner(settings, ranks=ranks, epoch=epoch, office=office, stop=stop)
        LOG.info("rank %d of %d is ready, epoch %d", rank, world_size, epoch)
        learner.run()


def open_office(settings: LearnerSettings, bus: Bus, reporter: PartReporter, stop: threading.Event) -> Office:
    """Take the part of the learner, so that what earlier learners publish is void.

    Raises:
        StoppedError: told to stop meanwhile.
        UserError: another learner has it, and lives.
    """
    bus.create_topics()
    lease = Lease.claim(bus, reporter, [POLICY, STEPS], above=newest_epoch(settings.run.folder), stop=stop)
    return Office(bus=bus, lease=lease, reporter=reporter)


def build_learner(
    settings: LearnerSettings, *, ranks: Ranks, epoch: int, office: Office | None, stop: threading.Event
) -> Learner:
    """Load the policy and connect one rank; needs the process group.

    Raises:
        UserError: the model cannot be loaded or frozen as the run file says, or packed rollouts are not computed right.
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
    policy.to(learner_device())
    difference = max(ranks.together(lambda: check_policy(policy)))
    LOG.info("packed rollouts are within %.1g nats of the model's own forward pass", difference)
    counts = count_parameters(policy)
    LOG.info("%d parameters are trained, %d are frozen", counts.trained, counts.frozen)
    if settings.rollout.truncation:
        LOG.warning(
            "rollouts are sampled with %s: not from the policy itself, whose log-probabilities the ratio compares",
            " and ".join(settings.rollout.truncation),
        )

    def report_waiting(what: str) -> None:
        if office is not None:
            office.reporter.report(PartState.READY, what)

    instance = office.reporter.instance if office is not None else ""
    client = BatchClient(
        settings.assembly.address,
        Caller(run=settings.run.id, world_size=ranks.size, epoch=epoch, instance=instance),
        stop=stop,
        report_waiting=report_waiting,
        check=office.lease.check if office is not None else lambda: None,
    )
    store = open_store(settings.store, settings.run.folder)
    connections = Connections(ranks=ranks, epoch=epoch, office=office, store=store, client=client)
    engine = TrainingEngine(policy, settings.learner, precision=settings.model.precision, num_steps=settings.run.steps)
    flops = model_flops(policy, engine.device, settings.model.precision)
    return Learner(settings, engine, connections, run_identity(settings, ranks.size), flops=flops)


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

"""The process of a verifier: a warm pool, then the app, until a signal."""

import asyncio
import logging

from tristream.config.run_file import RunFile
from tristream.runtime.bus.kafka import KafkaBus
from tristream.runtime.part import log_to_stderr, stop_on_signals
from tristream.runtime.status import StatusFile
from tristream.verifiers.adapters.image_grid import ImageSizes
from tristream.verifiers.registry import select_verifiers
from tristream.verifiers.service.pool import Pool
from tristream.verifiers.service.worker import VerifierWorker


def main(settings: RunFile) -> None:
    """Score rollouts until SIGTERM.

    Raises:
        UserError: a verifier is unknown or no broker answers.
        WorkerCrashedError: the app stopped by itself; start the process again.
    """
    log = log_to_stderr("verifier")
    logging.getLogger("tristream.verifiers.service.faust_consumer").setLevel(logging.WARNING)
    stop = stop_on_signals()
    status = StatusFile(settings.status_folder, "verifier")
    verifiers = select_verifiers(settings.verification.verifiers)
    status.report("starting", "child processes")
    pool = Pool(
        verifiers,
        num_processes=settings.verification.num_processes,
        deadline_seconds=settings.verification.deadline_seconds,
    )
    pool.start()
    try:
        create_topics(settings)
        log.info("serves %s in %d processes", ", ".join(verifiers), settings.verification.num_processes)
        sizes = ImageSizes(settings.model.path, settings.store_uri)
        worker = VerifierWorker(settings, verifiers, pool, status=status, prepare_params=sizes.complete)
        asyncio.run(worker.run(stop))
    finally:
        pool.stop()
    status.report("done")


def create_topics(settings: RunFile) -> None:
    """Create the run's topics that do not exist yet, so that the subscription finds them."""
    bus = KafkaBus(settings, "verifier")
    try:
        bus.create_topics()
    finally:
        bus.close()

"""The process of a verifier: a warm pool, then the app, until a signal."""

import asyncio
import logging
from contextlib import ExitStack
from functools import partial

from tristream.config.parts import VerifierSettings
from tristream.runtime.bus.kafka import KafkaBus
from tristream.runtime.part import start_part
from tristream.runtime.status import PartReporter
from tristream.runtime.store import open_store
from tristream.verifiers.adapters.image_grid import ImageSizes
from tristream.verifiers.registry import by_versioned_name, select_verifiers
from tristream.verifiers.service.pool import Pool
from tristream.verifiers.service.worker import VerifierWorker
from tristream.wire.events import Part, PartState
from tristream.wire.topics import PARTS


def main(settings: VerifierSettings) -> None:
    """Score rollouts until SIGTERM.

    Raises:
        UserError: a verifier is unknown, no broker answers, or the run's log was begun under another contract.
        WorkerCrashedError: the app stopped by itself; start the process again.
    """
    log, stop = start_part(Part.VERIFIER)
    logging.getLogger("tristream.verifiers.service.faust_consumer").setLevel(logging.WARNING)
    reporter = PartReporter(settings.run.folder, settings.run.id, Part.VERIFIER)
    served = by_versioned_name(select_verifiers(settings.verification.verifiers).values())
    reporter.report(PartState.STARTING, "child processes")
    pool = Pool(
        served,
        num_processes=settings.verification.num_processes,
        deadline_seconds=settings.verification.deadline_seconds,
    )
    with ExitStack() as cleanup:
        cleanup.callback(pool.stop)
        pool.start()
        bus = KafkaBus(settings.run.id, settings.bus, Part.VERIFIER)
        cleanup.callback(bus.close)
        bus.create_topics()  # so that the subscription finds them
        reporter.connect(lambda status: bus.tell(PARTS, status))
        log.info("serves %s in %d processes", ", ".join(served), settings.verification.num_processes)
        sizes = ImageSizes(settings.model.path, partial(open_store, settings.store, settings.run.folder))
        worker = VerifierWorker(settings, served, pool, bus, reporter=reporter, complete_params=sizes.complete)
        asyncio.run(worker.run(stop))
        reporter.report(PartState.DONE)

"""The process of a verifier: a warm pool, then the app, until a signal."""

import asyncio
import logging
import threading
import time
from concurrent.futures import Future
from contextlib import ExitStack
from functools import partial

from tristream.config.parts import VerifierSettings
from tristream.runtime.bus.kafka import KafkaBus
from tristream.runtime.errors import StoppedError
from tristream.runtime.part import start_part
from tristream.runtime.status import PartReporter
from tristream.runtime.store import open_store
from tristream.verifiers.adapters.image_grid import ImageSizes
from tristream.verifiers.registry import by_versioned_name, select_verifiers
from tristream.verifiers.service.pool import Pool
from tristream.verifiers.service.worker import VerifierWorker
from tristream.wire.events import Part, PartState

LOG = logging.getLogger("tristream.verifier")

POLL_SECONDS = 0.1
STOP_SECONDS = 5.0
"""Longest that the app may take to stop, with what is in hand."""
SILENT_SECONDS = 2.0
"""A broker that has not answered for so long is not waited for when the app stops."""


def main(settings: VerifierSettings) -> None:
    """Score rollouts until SIGTERM.

    Raises:
        UserError: a verifier is unknown, no broker is given, or the run's log was begun under another contract.
        TryAgainError: the app stopped by itself; start the process again.
        BusError: the broker refused what was published.
    """
    log, stop = start_part(Part.VERIFIER)
    logging.getLogger("tristream.verifiers.service.faust_consumer").setLevel(logging.WARNING)  # Faust logs by its name
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)  # it says ten times a second that the broker is away
    reporter = PartReporter(settings.run.folder, settings.run.id, Part.VERIFIER)
    served = by_versioned_name(select_verifiers(settings.verification.verifiers).values())
    reporter.report(PartState.STARTING, "child processes")
    pool = Pool(
        served,
        num_processes=settings.verification.num_processes,
        deadline_seconds=settings.verification.deadline_seconds,
    )
    try:
        with ExitStack() as cleanup:
            cleanup.callback(pool.stop)
            pool.start()
            say = partial(reporter.report, PartState.STARTING)
            bus = KafkaBus(settings.run.id, settings.bus, Part.VERIFIER, stop=stop, say=say)
            cleanup.callback(bus.close)
            reporter.connect_to(bus)
            reporter.start_beating()
            bus.create_topics()  # so that the subscription finds them
            log.info("serves %s in %d processes", ", ".join(served), settings.verification.num_processes)
            sizes = ImageSizes(settings.model.path, partial(open_store, settings.store, settings.run.folder), stop=stop)
            worker = VerifierWorker(settings, served, pool, bus, reporter=reporter, image_sizes=sizes)
            run_until_stopped(worker, bus, stop)
            reporter.report(PartState.DONE)
    except StoppedError:
        log.info("stopped while it waited for the broker")


def run_until_stopped(worker: VerifierWorker, bus: KafkaBus, stop: threading.Event) -> None:
    """Run a worker in a thread of its own, which is left behind if the broker does not let go of it in time."""
    result: Future[None] = Future()

    def run() -> None:
        try:
            asyncio.run(worker.run(stop))
        except BaseException as error:
            result.set_exception(error)
        else:
            result.set_result(None)

    threading.Thread(target=run, name="faust", daemon=True).start()
    while not stop.wait(POLL_SECONDS) and not result.done():
        pass
    deadline = time.monotonic() + STOP_SECONDS
    while not result.done() and time.monotonic() < deadline and bus.silent_seconds < SILENT_SECONDS:
        time.sleep(POLL_SECONDS)
    if result.done():
        result.result()
    else:
        LOG.warning("the app is left behind: its broker does not let go of it")

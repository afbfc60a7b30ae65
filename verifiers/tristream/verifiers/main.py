"""The process of a verifier: a warm pool, then the app, until a signal or the end of an added verifier's life."""

import asyncio
import logging
import threading
import time
from collections.abc import Mapping
from concurrent.futures import Future
from contextlib import ExitStack
from functools import partial

from tristream.config.parts import VerifierSettings
from tristream.runtime.bus.kafka import KafkaBus
from tristream.runtime.errors import StoppedError, TryAgainError
from tristream.runtime.metrics_server import serve_metrics
from tristream.runtime.part import start_part
from tristream.runtime.status import PartReporter
from tristream.runtime.store import open_store
from tristream.verifiers.adapters.image_grid import ImageSizes
from tristream.verifiers.pool.pool import Pool
from tristream.verifiers.pool.tasks import PoolError
from tristream.verifiers.service.addition import find_code
from tristream.verifiers.service.following import FollowedAddition
from tristream.verifiers.service.group_start import begin_group_at
from tristream.verifiers.service.images import ImageReader
from tristream.verifiers.service.preparing import Preparer
from tristream.verifiers.service.scoring import RolloutScorer
from tristream.verifiers.service.selection import select_served
from tristream.verifiers.service.terms import Serving, Shadow
from tristream.verifiers.service.window import Window
from tristream.verifiers.service.worker import SILENT_SECONDS, VerifierWorker, group_name
from tristream.wire.events import Part, PartState
from tristream.wire.topics import ROLLOUTS

LOG = logging.getLogger("tristream.verifier")

POLL_SECONDS = 0.1
STOP_SECONDS = 5.0
"""Longest that the app may take to stop, with what is in hand."""


def main(settings: VerifierSettings, verifier: str = "") -> None:
    """Score rollouts until SIGTERM, or until the verifier that was added is retired.

    Args:
        settings: of the run.
        verifier: ``NAME@VERSION`` of a verifier that was added while the run goes on, to serve just that one; empty
            for those of the run file.

    Raises:
        UserError: a verifier is unknown or cannot be loaded, no broker is given, or the run's log was begun under
            another contract.
        TryAgainError: the app or the pool stopped by itself; start the process again.
        BusError: the broker refused what was published.
    """
    log, stop = start_part(Part.VERIFIER)
    logging.getLogger("tristream.verifiers.service.faust_consumer").setLevel(logging.WARNING)  # Faust logs by its name
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)  # it says ten times a second that the broker is away
    reporter = PartReporter(settings.run.folder, settings.run.id, Part.VERIFIER, file_name=file_name_of(verifier))
    serve_metrics(reporter, settings.metrics)
    try:
        with ExitStack() as cleanup:
            bus = KafkaBus(
                settings.run.id,
                settings.bus,
                Part.VERIFIER,
                stop=stop,
                say=partial(reporter.report, PartState.STARTING),
            )
            cleanup.callback(bus.close)
            reporter.connect_to(bus)
            reporter.start_beating()
            bus.create_topics()  # so that the subscription finds them
            if verifier:
                addition = cleanup.enter_context(FollowedAddition(bus, verifier))
                served = {verifier: find_code(addition.command, settings.run.folder)}
                _serve(settings, served, bus, reporter, stop, shadow=addition.shadow, done=addition.over)
            else:
                _serve(settings, select_served(settings.verification), bus, reporter, stop)
            reporter.report(PartState.DONE)
    except StoppedError:
        log.info("stopped while it waited for the broker")
    except PoolError as error:
        raise TryAgainError(str(error)) from error


def file_name_of(verifier: str) -> str:
    """Name of the status file of a worker that serves an added verifier; empty for those of the run file."""
    return f"{Part.VERIFIER}-{verifier}" if verifier else ""


def _serve(
    settings: VerifierSettings,
    served: Mapping[str, str],
    bus: KafkaBus,
    reporter: PartReporter,
    stop: threading.Event,
    *,
    shadow: Shadow | None = None,
    done: threading.Event | None = None,
) -> None:
    verification = settings.verification
    reporter.report(PartState.STARTING, "child processes")
    pool = Pool(
        served,
        num_processes=verification.num_processes,
        cpu_seconds=verification.cpu_seconds,
        wall_seconds=verification.wall_seconds,
        memory_mib=verification.memory_mib,
    )
    with ExitStack() as cleanup:
        cleanup.callback(pool.stop)
        pool.start()
        LOG.info("serves %s in %d processes", ", ".join(served), verification.num_processes)
        serving = Serving(facts=pool.facts, shadow=shadow)
        if shadow is not None and shadow.from_ns:
            begin_group_at(bus, ROLLOUTS, group_name(settings, served), shadow.from_ns)
        open_run_store = partial(open_store, settings.store, settings.run.folder)
        images = ImageReader(open_run_store, stop=stop)
        sizes = ImageSizes(settings.model.path, open_run_store, stop=stop)
        preparer = Preparer(images.read, sizes)

        def make_scorer(window: Window) -> RolloutScorer:
            return RolloutScorer(
                serving,
                pool,
                bus,
                window,
                preparer=preparer,
                zero_on_timeout=verification.on_timeout == "zero",
                group_wait_seconds=verification.group_wait_seconds,
            )

        worker = VerifierWorker(
            settings,
            serving,
            pool,
            bus,
            make_scorer=make_scorer,
            reporter=reporter,
            waiting_for=lambda: images.waiting_for or sizes.waiting_for,
        )
        run_until_stopped(worker, bus, stop, done or threading.Event())


def run_until_stopped(worker: VerifierWorker, bus: KafkaBus, stop: threading.Event, done: threading.Event) -> None:
    """Run a worker in a thread of its own, which is left behind if the broker does not let go of it in time."""
    result: Future[None] = Future()

    def run() -> None:
        try:
            asyncio.run(worker.run(stop, done))
        except BaseException as error:
            result.set_exception(error)
        else:
            result.set_result(None)

    threading.Thread(target=run, name="faust", daemon=True).start()
    while not (stop.wait(POLL_SECONDS) or done.is_set() or result.done()):
        pass
    deadline = time.monotonic() + STOP_SECONDS
    while not result.done() and time.monotonic() < deadline and bus.silent_seconds < SILENT_SECONDS:
        time.sleep(POLL_SECONDS)
    if result.done():
        result.result()
    else:
        LOG.warning("the app is left behind: its broker does not let go of it")

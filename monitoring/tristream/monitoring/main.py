"""The monitor as a process: every event into ClickHouse, and the live page on top of it."""

import logging
import math
import threading
from functools import partial

from tristream.config.parts import MonitorSettings
from tristream.monitoring.audience import Audience
from tristream.monitoring.http_queries.server import HttpQueries, serve_queries
from tristream.monitoring.page.answer_cache import Lane
from tristream.monitoring.page.server import serve_page
from tristream.monitoring.store.clickhouse import Role, open_client
from tristream.monitoring.store.reading import QUERY_PORT
from tristream.monitoring.store.run_facts import write_sources
from tristream.monitoring.store.sink import Sink
from tristream.monitoring.store.writer import Writer
from tristream.runtime.archive.writer import ArchiveWriter
from tristream.runtime.bus.kafka import KafkaBus
from tristream.runtime.errors import StoppedError
from tristream.runtime.metrics_server import serve_metrics
from tristream.runtime.part import start_part
from tristream.runtime.status import PartReporter
from tristream.wire.events import Part, PartState

LOG = logging.getLogger("tristream.monitor")


def main(settings: MonitorSettings) -> None:
    """Write and serve until SIGTERM; then write what was published before it, and end.

    A broker or a database that is away is waited for.

    Raises:
        UserError: the tables or the log were made by another version, an address is none, or the port of the page is
            taken.
        BusError: the log cannot be read to its end at the stop.
        TryAgainError: the database takes nothing at the stop.
    """
    _, stop = start_part(Part.MONITOR)
    run, folder = settings.run.id, settings.run.folder
    reporter = PartReporter(folder, run, Part.MONITOR)
    serve_metrics(reporter, settings.metrics)
    reporter.report(PartState.STARTING, "the broker")
    reporter.start_beating()
    serves = threading.Event()
    bus = KafkaBus(
        run,
        settings.bus,
        Part.MONITOR,
        stop=stop,
        say=lambda waiting_for: reporter.report(
            PartState.READY if serves.is_set() else PartState.STARTING, waiting_for
        ),
    )
    try:
        bus.create_topics()
        reporter.connect_to(bus)
        _write_and_serve(settings, bus, reporter, serves, stop)
    except StoppedError:
        LOG.info("told to stop while the broker or the database did not answer")
    finally:
        reporter.stop_beating()
        bus.close()


def _write_and_serve(
    settings: MonitorSettings, bus: KafkaBus, reporter: PartReporter, serves: threading.Event, stop: threading.Event
) -> None:
    starting = partial(reporter.report, PartState.STARTING)
    open_database = partial(
        open_client, settings.monitoring, settings.run.folder, timeout_seconds=math.inf, on_wait=starting, stop=stop
    )
    starting("ClickHouse")
    client = open_database()
    write_sources(Writer(client, bus.run, report=starting, stop=stop), bus.run, settings.sources)
    audience = Audience()
    page = serve_page(settings, *(open_database(role=Role.ANSWERS) for _ in Lane), on_look=audience.note)
    queries = _serve_queries(settings, reporter, audience)
    archive = ArchiveWriter(settings.run.folder.archive, bus.log_id()) if settings.monitoring.archive else None
    sink = Sink(
        bus,
        client,
        flush_seconds=settings.monitoring.flush_seconds,
        # Who looks at a server is not known, and what it costs there is not taken from training.
        is_watched=lambda: queries is None or audience.is_there,
        report=lambda waiting_for: reporter.report(
            PartState.READY, waiting_for, address=page.url, measures={"num_events": sink.num_events}
        ),
        stop=stop,
        archive=archive,
    )
    serves.set()
    LOG.info("live page at %s", page.url)
    try:
        sink.run()
        reporter.report(PartState.DONE, measures={"num_events": sink.num_events})
    finally:
        page.stop()
        if queries is not None:
            queries.stop()
        sink.close()
        client.close()


def _serve_queries(settings: MonitorSettings, reporter: PartReporter, audience: Audience) -> HttpQueries | None:
    """Serve queries to others, and tell where; a server does that itself."""
    if settings.monitoring.clickhouse_url:
        return None
    queries = serve_queries(settings.monitoring, settings.run.folder, settings.run.id, audience.note)
    reporter.report(PartState.STARTING, "the log", measures={QUERY_PORT: float(queries.port)})
    return queries

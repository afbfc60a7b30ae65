"""The monitor as a process: every event into ClickHouse, and the live page on top of it."""

from tristream.config.parts import MonitorSettings
from tristream.monitoring.page.server import serve_page
from tristream.monitoring.store.clickhouse import open_client
from tristream.monitoring.store.sink import Sink, write_sources
from tristream.runtime.bus.kafka import KafkaBus
from tristream.runtime.part import start_part
from tristream.runtime.status import PartReporter
from tristream.wire.events import Part, PartState
from tristream.wire.topics import PARTS


def main(settings: MonitorSettings) -> None:
    """Write and serve until SIGTERM; then write what was published before it, and end.

    Raises:
        UserError: the database or the broker cannot be reached, the tables or the log were made by another version,
            or the port of the page is taken.
    """
    log, stop = start_part(Part.MONITOR)
    run, folder = settings.run.id, settings.run.folder
    reporter = PartReporter(folder, run, Part.MONITOR)
    reporter.report(PartState.STARTING, "ClickHouse")
    client = open_client(
        settings.monitoring, folder, on_wait=lambda reason: reporter.report(PartState.STARTING, reason)
    )
    write_sources(client, run, settings.sources)
    page = serve_page(settings, open_client(settings.monitoring, folder))
    reporter.report(PartState.STARTING, "the broker", address=page.url)
    bus = KafkaBus(run, settings.bus, Part.MONITOR)
    bus.create_topics()
    reporter.connect(lambda status: bus.tell(PARTS, status))
    sink = Sink(
        bus,
        client,
        flush_seconds=settings.monitoring.flush_seconds,
        report=lambda waiting_for: reporter.report(
            PartState.READY, waiting_for, measures={"num_events": sink.num_events}
        ),
    )
    log.info("live page at %s", page.url)
    try:
        sink.run(stop)
        reporter.report(PartState.DONE, measures={"num_events": sink.num_events})
    finally:
        page.stop()
        sink.close()
        bus.close()
        client.close()

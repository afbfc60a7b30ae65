"""The monitor as a process: every event into ClickHouse, and the live page on top of it."""

from tristream.config.run_file import RunFile
from tristream.monitoring.page.server import serve_page
from tristream.monitoring.store.clickhouse import open_client
from tristream.monitoring.store.sink import Sink, write_sources
from tristream.runtime.bus.kafka import KafkaBus
from tristream.runtime.part import log_to_stderr, stop_on_signals
from tristream.runtime.status import StatusFile


def main(settings: RunFile) -> None:
    """Write and serve until SIGTERM; then write what was published before it, and end.

    Raises:
        UserError: the database or the broker cannot be reached, or the port of the page is taken.
    """
    log = log_to_stderr("monitor")
    stop = stop_on_signals()
    status = StatusFile(settings.status_folder, "monitor")
    status.report("starting", "ClickHouse")
    client = open_client(settings, on_wait=lambda reason: status.report("starting", reason))
    write_sources(client, settings)
    page = serve_page(settings, open_client(settings))
    status.report("starting", "the broker", url=page.url)
    bus = KafkaBus(settings, "monitor")
    bus.create_topics()
    sink = Sink(
        bus,
        client,
        flush_seconds=settings.monitoring.flush_seconds,
        report=lambda waiting_for: status.report("ready", waiting_for, events=sink.num_events),
    )
    status.report("ready", events=0)
    log.info("live page at %s", page.url)
    try:
        sink.run(stop)
    finally:
        page.stop()
        sink.close()
        bus.close()
        client.close()
    status.report("done", events=sink.num_events)

"""The assembler as a process: read, join, serve, until told to stop."""

from tristream.assembler.assembler import Assembler
from tristream.assembler.serve import serve_batches
from tristream.config.run_file import RunFile
from tristream.runtime.bus.kafka import KafkaBus
from tristream.runtime.part import log_to_stderr, stop_on_signals
from tristream.runtime.status import StatusFile


def main(settings: RunFile) -> None:
    """Run the assembler until SIGTERM.

    Raises:
        UserError: the address is taken or no broker answers.
    """
    log_to_stderr("assembler")
    stop = stop_on_signals()
    status = StatusFile(settings.status_folder, "assembler")
    status.report("starting", "the broker")
    bus = KafkaBus(settings, "assembler")
    bus.create_topics()
    assembler = Assembler(settings, bus)
    server, port = serve_batches(assembler, settings.run.id, settings.assembly.address)
    try:
        while not stop.is_set():
            assembler.work()
            status.report(
                "ready",
                assembler.waiting_for(),
                port=port,
                attached=assembler.is_attached,
                open=assembler.num_open,
                ready=assembler.num_ready,
                groups=dict(assembler.counts),
            )
    finally:
        server.stop(grace=1.0).wait()
        assembler.close()
        bus.close()
    status.report("done")

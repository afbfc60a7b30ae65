"""The assembler as a process: read, join, serve, until told to stop."""

import asyncio
import threading
from functools import partial

from tristream.assembler.grpc_server import serve_batches
from tristream.assembler.service import AssemblyService
from tristream.config.parts import AssemblerSettings
from tristream.runtime.bus.kafka import KafkaBus
from tristream.runtime.bus.protocol import Bus
from tristream.runtime.part import start_part
from tristream.runtime.status import PartReporter
from tristream.wire.events import Part, PartState
from tristream.wire.topics import PARTS

REPORT_SECONDS = 0.2


def main(settings: AssemblerSettings) -> None:
    """Run the assembler until SIGTERM.

    Raises:
        UserError: the address is taken or no broker answers.
    """
    _, stop = start_part(Part.ASSEMBLER)
    reporter = PartReporter(settings.run.folder, settings.run.id, Part.ASSEMBLER)
    reporter.report(PartState.STARTING, "the broker")
    bus = KafkaBus(settings.run.id, settings.bus, Part.ASSEMBLER)
    try:
        bus.create_topics()
        reporter.connect(lambda status: bus.tell(PARTS, status))
        asyncio.run(assemble(settings, bus, reporter, stop))
        reporter.report(PartState.DONE)
    finally:
        bus.close()


async def assemble(settings: AssemblerSettings, bus: Bus, reporter: PartReporter, stop: threading.Event) -> None:
    """Serve batches until told to stop.

    Raises:
        UserError: the address is taken, or the log was written under another contract.
        BusError: the log could not be read or written.
    """
    service = AssemblyService(settings, bus)
    server, address = await serve_batches(service, settings)
    reporting = asyncio.create_task(_report(service, reporter, address))
    try:
        await service.run(stop)
    finally:
        reporting.cancel()
        await server.stop(grace=1.0)
        await service.close()


async def _report(service: AssemblyService, reporter: PartReporter, address: str) -> None:
    """Tell again and again what the assembler does."""
    while True:
        assembly = service.assembly
        waiting_for = assembly.waiting_for()
        measures: dict[str, float] = {
            "is_attached": float(assembly.is_attached),
            "num_open": float(assembly.num_open),
            "num_ready": float(assembly.num_ready),
            **{f"groups/{name}": float(count) for name, count in assembly.counts.items()},
        }
        tell = partial(reporter.report, PartState.READY, waiting_for, address=address, measures=measures)
        await asyncio.wait((service.publish_aside(tell),))
        await asyncio.sleep(REPORT_SECONDS)

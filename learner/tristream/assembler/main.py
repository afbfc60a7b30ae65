"""The assembler as a process: read, join, serve, until told to stop."""

import asyncio
import threading
from collections import Counter
from collections.abc import Callable
from functools import partial

from tristream.assembler.grpc_server import make_server, serve_batches
from tristream.assembler.service import AssemblyService
from tristream.assembler.waiting import Held
from tristream.config.parts import AssemblerSettings
from tristream.runtime.bus.kafka import KafkaBus
from tristream.runtime.bus.protocol import Bus
from tristream.runtime.errors import StoppedError
from tristream.runtime.lease import Lease
from tristream.runtime.metrics_server import serve_metrics
from tristream.runtime.part import start_part
from tristream.runtime.status import PartReporter
from tristream.wire.events import Part, PartState
from tristream.wire.events.parts import JUDGED_REWARD, OPEN_GROUPS
from tristream.wire.topics import OUTCOMES

REPORT_SECONDS = 0.5
ANSWER_SECONDS = 5.0
"""Longest that the answers to who waits may take when the assembler ends."""


def main(settings: AssemblerSettings) -> None:
    """Run the assembler until SIGTERM.

    Raises:
        UserError: the address is taken, or another assembler of this run is at work or took over.
        BusError: the broker refused a record.
    """
    log, stop = start_part(Part.ASSEMBLER)
    reporter = PartReporter(settings.run.folder, settings.run.id, Part.ASSEMBLER)
    serve_metrics(reporter, settings.metrics)
    reporter.report(PartState.STARTING, "the broker")
    reporter.start_beating()

    def say(waiting_for: str) -> None:
        """Once the assembler has its lease, its beats say that the broker is silent."""
        if not reporter.epoch:
            reporter.report(PartState.STARTING, waiting_for)

    bus = KafkaBus(settings.run.id, settings.bus, Part.ASSEMBLER, stop=stop, say=say)
    leases: list[Lease] = []

    def claim() -> Lease:
        leases.append(Lease.claim(bus, reporter, [OUTCOMES], stop=stop))
        return leases[0]

    try:
        bus.create_topics()
        asyncio.run(assemble(settings, bus, reporter, stop, claim))
    except StoppedError:
        log.info("told to stop while the broker did not answer")
    finally:
        for lease in leases:
            lease.close()
        bus.close()
        reporter.stop_beating()


async def assemble(
    settings: AssemblerSettings,
    bus: Bus,
    reporter: PartReporter,
    stop: threading.Event,
    claim: Callable[[], Held],
) -> None:
    """Serve batches until told to stop.

    Args:
        settings: of the run.
        bus: where everything is read and published.
        reporter: tells what the assembler does.
        stop: ends it in order.
        claim: makes this process the assembler of the run; called once its address is known to be free, so that a
            second one that is started by mistake takes nothing over.

    Raises:
        UserError: the address is taken, the log was written under another contract, or another assembler took over.
        BusError: the log could not be read or written.
    """
    server, address = make_server(settings.assembly.address)
    service = AssemblyService(settings, bus, await asyncio.to_thread(claim))
    await serve_batches(server, service, settings)
    reporting = asyncio.create_task(_report(service, reporter, address))
    try:
        await service.run(stop)
    finally:
        reporting.cancel()
        await server.stop(ANSWER_SECONDS)
        await service.close()


async def _report(service: AssemblyService, reporter: PartReporter, address: str) -> None:
    """Tell again and again what the assembler does."""
    num_open: Counter[str] = Counter()
    while True:
        assembly = service.assembly
        waiting_for = service.waiting_for()
        num_open = Counter({**dict.fromkeys(num_open, 0), **assembly.num_open_by_source})
        measures: dict[str, float] = {
            "is_attached": float(assembly.is_attached),
            "num_open": float(assembly.num_open),
            "num_ready": float(assembly.num_ready),
            **{f"groups/{name}": float(count) for name, count in assembly.counts.items()},
            **{f"{OPEN_GROUPS}{source}": float(count) for source, count in num_open.items()},
            **{f"{JUDGED_REWARD}{source}": reward for source, reward in assembly.judged_rewards.means.items()},
        }
        tell = partial(reporter.report, PartState.READY, waiting_for, address=address, measures=measures)
        await asyncio.wait((service.publish_aside(tell),))
        await asyncio.sleep(REPORT_SECONDS)

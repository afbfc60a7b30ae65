"""The dispatcher as a process."""

from tristream.config.parts import DispatcherSettings
from tristream.dispatcher.dispatcher import Dispatcher
from tristream.dispatcher.prompt_making import PromptMaker
from tristream.runtime.bus.kafka import KafkaBus
from tristream.runtime.errors import StoppedError
from tristream.runtime.metrics_server import serve_metrics
from tristream.runtime.part import start_part
from tristream.runtime.status import PartReporter
from tristream.runtime.store import open_store
from tristream.wire.events import Part, PartState


def main(settings: DispatcherSettings) -> None:
    """Dispatch the prompts of a run; returns when its last version is durable and evaluated.

    A broker or a store that is away is waited for.

    Raises:
        UserError: the data or the broker of the run file are not usable, or another dispatcher of the run is at work.
        BusError: the broker refused a record.
    """
    log, stop = start_part(Part.DISPATCHER)
    reporter = PartReporter(settings.run.folder, settings.run.id, Part.DISPATCHER)
    serve_metrics(reporter, settings.metrics)
    reporter.report(PartState.STARTING, "the rows of the sources")
    reporter.start_beating()

    def say(waiting_for: str) -> None:
        """Once the dispatcher has its lease, its beats say that the broker is silent."""
        if not reporter.epoch:
            reporter.report(PartState.STARTING, waiting_for)

    try:
        inline_bytes = settings.rollout.inline_image_bytes
        store = open_store(settings.store, settings.run.folder, inline_limit_bytes=inline_bytes)
        maker = PromptMaker(settings, store)
        log.info("rows are checked; %d held-out rows", maker.num_eval_prompts)
        bus = KafkaBus(settings.run.id, settings.bus, Part.DISPATCHER, stop=stop, say=say)
        try:
            bus.create_topics()
            Dispatcher(settings, bus, maker, reporter).run(stop)
        finally:
            bus.close()
    except StoppedError:
        log.info("told to stop while the broker did not answer")
    finally:
        reporter.stop_beating()

"""The dispatcher as a process."""

from tristream.config.parts import DispatcherSettings
from tristream.dispatcher.dispatcher import Dispatcher
from tristream.dispatcher.prompt_making import PromptMaker
from tristream.runtime.bus.kafka import KafkaBus
from tristream.runtime.part import start_part
from tristream.runtime.status import PartReporter
from tristream.runtime.store import open_store
from tristream.wire.events import Part, PartState
from tristream.wire.topics import PARTS


def main(settings: DispatcherSettings) -> None:
    """Dispatch the prompts of a run; returns when its last version is evaluated.

    Raises:
        UserError: the data or the broker of the run file are not usable.
    """
    log, stop = start_part(Part.DISPATCHER)
    reporter = PartReporter(settings.run.folder, settings.run.id, Part.DISPATCHER)
    reporter.report(PartState.STARTING, "the rows of the sources")
    inline_bytes = settings.rollout.inline_image_bytes
    store = open_store(settings.store, settings.run.folder, inline_limit_bytes=inline_bytes)
    maker = PromptMaker(settings, store)
    log.info("rows are checked; %d held-out rows", maker.num_eval_prompts)
    bus = KafkaBus(settings.run.id, settings.bus, Part.DISPATCHER)
    try:
        bus.create_topics()
        reporter.connect(lambda status: bus.tell(PARTS, status))
        Dispatcher(settings, bus, maker, reporter).run(stop)
    finally:
        bus.close()

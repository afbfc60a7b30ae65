"""The dispatcher as a process."""

from tristream.producers.dispatcher import Dispatcher
from tristream.producers.prompt_making import PromptMaker
from tristream.wire.blobs import BlobStore
from tristream.wire.kafka_bus import KafkaBus
from tristream.wire.lifecycle import log_to_stderr, stop_on_signals
from tristream.wire.runfile import RunFile
from tristream.wire.status import StatusFile


def main(settings: RunFile) -> None:
    """Dispatch the prompts of a run; returns when its last version is evaluated.

    Raises:
        UserError: the data or the broker of the run file are not usable.
    """
    log = log_to_stderr("dispatcher")
    stop = stop_on_signals()
    status = StatusFile(settings.status_folder, "dispatcher")
    status.report("starting", "the rows of the sources")
    maker = PromptMaker(settings, BlobStore(settings.store_uri, inline_limit_bytes=settings.rollout.inline_image_bytes))
    log.info("rows are checked; %d held-out rows", maker.num_eval_prompts)
    bus = KafkaBus(settings, "dispatcher")
    try:
        Dispatcher(settings, bus, maker, status).run(stop)
    finally:
        bus.close()

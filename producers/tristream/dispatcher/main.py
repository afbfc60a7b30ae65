"""The dispatcher as a process."""

from tristream.config.run_file import RunFile
from tristream.dispatcher.dispatcher import Dispatcher
from tristream.dispatcher.prompt_making import PromptMaker
from tristream.runtime.bus.kafka import KafkaBus
from tristream.runtime.part import log_to_stderr, stop_on_signals
from tristream.runtime.status import StatusFile
from tristream.runtime.store import BlobStore


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

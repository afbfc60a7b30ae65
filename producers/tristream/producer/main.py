"""A producer as a process."""

from collections.abc import Mapping

from tristream.config.parts import ProducerSettings
from tristream.policy.prompt_encoder import PromptEncoder
from tristream.producer.engines.registry import make_engine
from tristream.producer.environments.contract import Environment
from tristream.producer.environments.loading import load_environment
from tristream.producer.producer import Producer
from tristream.runtime.bus.kafka import KafkaBus
from tristream.runtime.metrics_server import serve_metrics
from tristream.runtime.part import start_part
from tristream.runtime.status import PartReporter
from tristream.runtime.store import open_store
from tristream.wire.events import Part, PartState


def main(settings: ProducerSettings) -> None:
    """Answer prompts until SIGTERM.

    Raises:
        UserError: the model or the broker of the run file are not usable.
        TryAgainError: the group of the producers makes no progress, or the engine answers nothing.
        BusError: the broker refused a record.
        StoppedError: told to stop while the broker did not answer.
    """
    _log, stop = start_part(Part.PRODUCER)
    reporter = PartReporter(settings.run.folder, settings.run.id, Part.PRODUCER)
    serve_metrics(reporter, settings.metrics)
    reporter.report(PartState.STARTING, "the broker")
    is_starting = True

    def say(words: str) -> None:
        if is_starting:  # later the reporter says on its own that the broker is silent
            reporter.report(PartState.STARTING, words)

    bus = KafkaBus(settings.run.id, settings.bus, Part.PRODUCER, stop=stop, say=say)
    try:
        reporter.connect_to(bus)
        reporter.start_beating()
        bus.create_topics()
        environments = load_environments(settings)
        reporter.report(PartState.STARTING, "the model")
        encoder = PromptEncoder(settings.model.path, max_image_pixels=settings.rollout.max_image_pixels)
        engine = make_engine(settings.rollout.engine, settings.model, encoder)
        store = open_store(settings.store, settings.run.folder)
        is_starting = False
        Producer(settings.rollout, bus, store, encoder, engine, reporter, environments).run(stop)
    finally:
        bus.close()


def load_environments(settings: ProducerSettings) -> Mapping[str, Environment]:
    """The environments that sources name, by source.

    Raises:
        UserError: one cannot be loaded.
    """
    return {source.name: load_environment(source.environment) for source in settings.sources if source.environment}

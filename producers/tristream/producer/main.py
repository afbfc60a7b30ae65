"""A producer as a process."""

import os
import socket

import torch

from tristream.config.run_file import RunFile
from tristream.policy.prompt_encoder import PromptEncoder
from tristream.producer.engines.decoding_policy import PolicyModel
from tristream.producer.engines.transformers import TransformersEngine
from tristream.producer.producer import Producer
from tristream.runtime.bus.kafka import KafkaBus
from tristream.runtime.part import log_to_stderr, stop_on_signals
from tristream.runtime.status import StatusFile
from tristream.runtime.store import BlobStore


def main(settings: RunFile) -> None:
    """Answer prompts until SIGTERM.

    Raises:
        UserError: the model or the broker of the run file are not usable.
    """
    log = log_to_stderr("producer")
    stop = stop_on_signals()
    status = StatusFile(settings.status_folder, "producer")
    status.report("starting", "the model")
    torch.set_num_threads(settings.rollout.num_threads)
    encoder = PromptEncoder(settings.model.path)
    model = PolicyModel(settings.model.path, encoder.config, settings.learner.precision)
    engine = TransformersEngine(encoder, model, max_batch_size=settings.rollout.max_batch_size)
    log.info("model is loaded on %s", model.device)
    bus = KafkaBus(settings, "producer")
    try:
        blobs = BlobStore(settings.store_uri, inline_limit_bytes=settings.rollout.inline_image_bytes)
        producer = Producer(settings.rollout, bus, blobs, encoder, engine, status)
        producer.run(stop, name=f"{socket.gethostname()}-{os.getpid()}")
    finally:
        bus.close()

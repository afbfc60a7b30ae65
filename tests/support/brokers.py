"""A broker for a test: the embedded one, or Apache Kafka where KAFKA_HOME names it."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tristream.local.broker import start_embedded_broker, start_kafka


@contextmanager
def running_broker(kind: str, folder: Path) -> Iterator[str]:
    """The address of a broker of the kind, ``embedded`` or ``kafka``, that stops with the block."""
    if kind == "embedded":
        broker = start_embedded_broker(folder)
    elif "KAFKA_HOME" in os.environ:
        broker = start_kafka(Path(os.environ["KAFKA_HOME"]), folder)
    else:
        pytest.skip("KAFKA_HOME names no Apache Kafka")
    try:
        yield broker.bootstrap_servers
    finally:
        broker.stop()

"""A broker for a test: the embedded one, or Apache Kafka where KAFKA_HOME names it."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tristream.local.broker import Broker, make_embedded_broker, make_kafka


@contextmanager
def started_broker(kind: str, folder: Path) -> Iterator[Broker]:
    """A broker of the kind, ``embedded`` or ``kafka``, that stops with the block; in it, stop and start it at will."""
    if kind == "embedded":
        broker = make_embedded_broker(folder)
    elif "KAFKA_HOME" in os.environ:
        broker = make_kafka(Path(os.environ["KAFKA_HOME"]), folder)
    else:
        pytest.skip("KAFKA_HOME names no Apache Kafka")
    try:
        broker.start()
        yield broker
    finally:
        broker.stop()


@contextmanager
def running_broker(kind: str, folder: Path) -> Iterator[str]:
    """The address of such a broker."""
    with started_broker(kind, folder) as broker:
        yield broker.bootstrap_servers

"""A bus in memory, with faults, on the embedded broker, and on Apache Kafka if KAFKA_HOME is set."""

import uuid
from collections.abc import Iterator

import pytest

from brokers import running_broker
from faulty_bus import FaultyBus
from tristream.config.bus import BusSection
from tristream.runtime.bus.kafka import KafkaBus
from tristream.runtime.bus.memory import MemoryBus
from tristream.runtime.bus.protocol import Bus


@pytest.fixture(scope="session", params=["memory", "faulty", "embedded", "kafka"])
def bootstrap(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of a running broker, or which bus needs none."""
    if request.param in ("memory", "faulty"):
        yield request.param
        return
    with running_broker(request.param, tmp_path_factory.mktemp(request.param)) as address:
        yield address


@pytest.fixture
def bus(bootstrap: str) -> Iterator[Bus]:
    """A bus whose topics are empty."""
    if bootstrap == "memory":
        yield MemoryBus("test")
        return
    if bootstrap == "faulty":
        yield FaultyBus(MemoryBus("test"))
        return
    kafka_bus = KafkaBus(f"test-{uuid.uuid4().hex[:8]}", BusSection(bootstrap_servers=bootstrap), "test")
    kafka_bus.create_topics()
    kafka_bus.create_topics()
    yield kafka_bus
    kafka_bus.close()

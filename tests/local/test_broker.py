"""A broker goes away and comes back on its port: Apache Kafka with all that it had, the embedded one with nothing."""

import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from brokers import started_broker
from statuses import make_status
from tristream.config.bus import BusSection
from tristream.local.broker import Broker
from tristream.runtime.bus.kafka import KafkaBus
from tristream.runtime.bus.protocol import Reader
from tristream.runtime.errors import UserError
from tristream.wire.events import Part, PartStatus
from tristream.wire.topics import PARTS, Topic

pytestmark = pytest.mark.integration


def connect(broker: Broker) -> KafkaBus:
    bus = KafkaBus("demo", BusSection(bootstrap_servers=broker.bootstrap_servers, fetch_wait_seconds=0.01), "test")
    bus.create_topics()
    return bus


def told(broker: Broker) -> list[str]:
    """Instances of all statuses on the log."""
    bus = connect(broker)
    reader = bus.reader([PARTS])
    instances = [record.event.instance for record in reader.read_to_end()]
    reader.close()
    bus.close()
    return instances


def read_until(reader: Reader, wanted: str, seconds: float = 30.0) -> list[str]:
    """What is read until the wanted instance is among it."""
    found: list[str] = []
    deadline = time.monotonic() + seconds
    while wanted not in found and time.monotonic() < deadline:
        found += [record.event.instance for record in reader.poll(0.1)]
    return found


@pytest.mark.parametrize("kind", ["embedded", pytest.param("kafka", marks=pytest.mark.slow)])
def test_a_broker_comes_back_on_its_address_with_what_is_durable(kind: str, tmp_path: Path) -> None:
    with started_broker(kind, tmp_path) as broker:
        address = broker.bootstrap_servers
        published: list[str] = []
        for name, end in (("first", Broker.stop), ("second", Broker.kill)):
            bus = connect(broker)
            bus.publish(PARTS, make_status(Part.PRODUCER, name))
            bus.flush()
            published.append(name)
            bus.close()
            end(broker)
            assert not broker.is_running
            broker.start()
            assert broker.is_running
            assert broker.bootstrap_servers == address
            assert told(broker) == (published if broker.durable else [])
        assert broker.durable == (kind == "kafka")


@pytest.mark.slow
def test_clients_of_apache_kafka_go_on_by_themselves(tmp_path: Path) -> None:
    with started_broker("kafka", tmp_path) as broker:
        bus = connect(broker)
        reader = bus.reader([PARTS])
        bus.publish(PARTS, make_status(Part.PRODUCER, "before"))
        assert read_until(reader, "before") == ["before"]
        broker.kill()
        acknowledged = bus.publish(PARTS, make_status(Part.PRODUCER, "while it is away"))
        time.sleep(0.5)
        assert not acknowledged.done()
        broker.start()
        acknowledged.result(timeout=60)
        assert read_until(reader, "while it is away") == ["while it is away"]
        reader.close()
        bus.close()


@pytest.mark.parametrize("send", [KafkaBus.tell, KafkaBus.publish])
def test_nobody_ends_of_a_broker_that_died_and_who_is_told_to_stop_ends_soon(
    send: Callable[[KafkaBus, Topic[PartStatus], PartStatus], object], tmp_path: Path
) -> None:
    stop = threading.Event()
    with started_broker("embedded", tmp_path) as broker:
        bus = KafkaBus("demo", BusSection(bootstrap_servers=broker.bootstrap_servers), "test", stop=stop)
        bus.create_topics()
        send(bus, PARTS, make_status(Part.PRODUCER, "before"))
        bus.flush()
        broker.kill()
        for number in range(30):
            send(bus, PARTS, make_status(Part.PRODUCER, f"while it is away {number}"))
            time.sleep(0.1)
        assert bus.silent_seconds > 1.0
        stop.set()
        started = time.monotonic()
        bus.close()
        assert time.monotonic() - started < 8.0


def test_a_broker_that_ends_at_once_is_an_error_that_names_its_log(tmp_path: Path) -> None:
    broker = Broker("Tansu", ["false"], 1, tmp_path / "broker.log", durable=False)
    with pytest.raises(UserError, match=r"broker\.log: Tansu did not start"):
        broker.start()

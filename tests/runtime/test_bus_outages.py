"""A broker goes away and comes back: no call fails, nothing is lost, and only being told to stop ends a wait."""

import os
import signal
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from brokers import started_broker
from buses import make_outcome, poll_until
from tristream.config.bus import BusSection
from tristream.local.broker import Broker, free_port
from tristream.runtime.bus.kafka import KafkaBus
from tristream.runtime.bus.protocol import BusError, Reader
from tristream.runtime.errors import StoppedError
from tristream.wire.topics import OUTCOMES

KINDS = ["embedded", pytest.param("kafka", marks=pytest.mark.slow)]


@pytest.fixture(scope="module", params=KINDS)
def shared_broker(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    with started_broker(request.param, tmp_path_factory.mktemp("broker")) as broker:
        yield broker


@pytest.fixture
def broker(shared_broker: Broker) -> Iterator[Broker]:
    """A broker that runs, whatever the test before did to it."""
    if not shared_broker.is_running:
        shared_broker.start()
    yield shared_broker
    if shared_broker.is_running:
        wake(shared_broker)


def connect(broker: Broker, stop: threading.Event | None = None, said: list[str] | None = None) -> KafkaBus:
    settings = BusSection(bootstrap_servers=broker.bootstrap_servers, fetch_wait_seconds=0.05)
    run = f"demo-{uuid.uuid4().hex[:8]}"
    bus = KafkaBus(run, settings, "test", stop=stop, say=None if said is None else said.append)
    bus.create_topics()
    return bus


def freeze(broker: Broker) -> None:
    assert broker._process is not None
    os.kill(broker._process.pid, signal.SIGSTOP)


def wake(broker: Broker) -> None:
    assert broker._process is not None
    os.kill(broker._process.pid, signal.SIGCONT)


class Traffic:
    """One thread that publishes and flushes numbers, one that reads and commits them, until they are ended."""

    def __init__(self, bus: KafkaBus, reader: Reader) -> None:
        self._bus = bus
        self._reader = reader
        self._ends = threading.Event()
        self.published: list[int] = []
        self.read: list[int] = []
        self._pool = ThreadPoolExecutor(2)
        self._work = [self._pool.submit(self._publish), self._pool.submit(self._read)]

    def _publish(self) -> None:
        while not self._ends.is_set():
            self._bus.publish(OUTCOMES, make_outcome(len(self.published)))
            self.published.append(len(self.published))
            self._bus.flush()
            time.sleep(0.02)

    def _read(self) -> None:
        while not self._ends.is_set():
            self.read += [record.event.group.number for record in self._reader.poll(0.1)]
            self._reader.commit()

    def flows_within(self, seconds: float) -> None:
        """Wait until both threads do something."""
        deadline, published, read = time.monotonic() + seconds, len(self.published), len(self.read)
        while len(self.published) < published + 2 or len(self.read) < read + 2:
            assert time.monotonic() < deadline, f"{len(self.published)} of {published}, {len(self.read)} of {read}"
            assert not any(work.done() for work in self._work), [work.exception() for work in self._work]
            time.sleep(0.05)

    def end(self) -> None:
        """End both threads; raises what they raised."""
        self._ends.set()
        for work in self._work:
            work.result(60)
        self._pool.shutdown()


def outlive(broker: Broker, go: Callable[[Broker], None], seconds: float, come: Callable[[Broker], None]) -> None:
    said: list[str] = []
    bus = connect(broker, said=said)
    reader = bus.reader([OUTCOMES], group="workers")
    traffic = Traffic(bus, reader)
    traffic.flows_within(30)
    assert bus.silent_seconds < 2
    go(broker)
    time.sleep(seconds)
    assert seconds - 2 < bus.silent_seconds < seconds + 5
    assert f"the broker at {broker.bootstrap_servers} (no answer for 3 s)" in said
    come(broker)
    traffic.flows_within(10)  # within 5 s where the machine is not busy
    traffic.end()
    bus.flush()
    missing = set(traffic.published) - set(traffic.read)
    poll_until(reader, lambda found: missing <= set(found))
    assert bus.silent_seconds == 0
    reader.close()
    bus.close()


def test_a_frozen_broker_is_waited_for_and_work_goes_on_when_it_wakes(broker: Broker) -> None:
    outlive(broker, freeze, 12, wake)


def test_nothing_is_lost_when_a_durable_broker_is_killed_and_started_again(broker: Broker) -> None:
    if not broker.durable:
        pytest.skip("the log of this broker ends with its process")
    outlive(broker, Broker.kill, 8, Broker.start)


def test_a_bus_waits_for_a_broker_that_is_not_there_yet(tmp_path: Path) -> None:
    with started_broker("embedded", tmp_path) as broker, ThreadPoolExecutor(1) as pool:
        broker.kill()
        said: list[str] = []
        connecting = pool.submit(connect, broker, None, said)
        time.sleep(4)
        assert not connecting.done()
        broker.start()
        bus = connecting.result(60)
        bus.publish(OUTCOMES, make_outcome(0)).result(60)
        assert said[0] == f"the broker at {broker.bootstrap_servers} (no answer for 2 s)"
        bus.close()


def test_a_part_that_is_told_to_stop_does_not_wait_for_a_broker_that_was_never_there() -> None:
    stop = threading.Event()
    threading.Timer(0.5, stop.set).start()
    started = time.monotonic()
    with pytest.raises(StoppedError, match="told to stop while the broker at"):
        KafkaBus("demo", BusSection(bootstrap_servers=f"127.0.0.1:{free_port()}"), "test", stop=stop)
    assert time.monotonic() - started < 5


@pytest.mark.parametrize("go", [freeze, Broker.kill])
def test_every_call_ends_soon_after_a_stop_while_the_broker_is_away(
    broker: Broker, go: Callable[[Broker], None]
) -> None:
    stop = threading.Event()
    bus = connect(broker, stop)
    member, reader = bus.reader([OUTCOMES], group="workers"), bus.reader([OUTCOMES])
    bus.publish(OUTCOMES, make_outcome(0)).result(60)
    poll_until(member, lambda found: found == [0])
    go(broker)
    stop.set()
    started = time.monotonic()
    assert not member.poll(0.2)
    bus.publish(OUTCOMES, make_outcome(1))
    bus.tell(OUTCOMES, make_outcome(2))
    calls: list[Callable[[], object]] = [
        member.commit,
        bus.flush,
        reader.mark_end,
        bus.log_id,
        bus.create_topics,
        lambda: list(reader.read_to_end()),
        lambda: bus.take_over([OUTCOMES], 1),
        lambda: bus.reader([OUTCOMES]),
    ]
    for call in calls:
        with pytest.raises(StoppedError):
            call()
    for client in (member, reader, bus):
        client.close()
    assert time.monotonic() - started < 25  # 2 s for the first, then 1 s for each


def test_a_broker_that_lives_answers_a_part_that_was_told_to_stop(broker: Broker) -> None:
    stop = threading.Event()
    bus = connect(broker, stop)
    stop.set()
    time.sleep(3)
    bus.publish(OUTCOMES, make_outcome(0))
    bus.flush()
    reader = bus.reader([OUTCOMES])
    assert [record.event.group.number for record in reader.read_to_end()] == [0]
    reader.close()
    bus.close()


def test_a_commit_that_comes_after_a_rebalance_ends_nobody(broker: Broker) -> None:
    bus = connect(broker)
    for number in range(40):
        bus.publish(OUTCOMES, make_outcome(number))
    bus.flush()
    first = bus.reader([OUTCOMES], group="workers")
    seen = poll_until(first, lambda found: len(found) == 40)
    second = bus.reader([OUTCOMES], group="workers")
    ends, deadline = threading.Event(), time.monotonic() + 60

    def read_on() -> list[int]:
        found: list[int] = []
        while not ends.is_set():
            found += [record.event.group.number for record in second.poll(0.1)]
            second.commit()
        return found

    with ThreadPoolExecutor(1) as pool:
        other = pool.submit(read_on)
        while not second._consumer.assignment() and time.monotonic() < deadline:
            first.commit()
            seen += [record.event.group.number for record in first.poll(0.1)]
        for _ in range(20):
            first.commit()
            seen += [record.event.group.number for record in first.poll(0.1)]
        ends.set()
        seen += other.result(60)
    assert second._consumer.assignment()
    assert set(seen) == set(range(40))
    first.close()
    second.close()
    bus.close()


def poll_until_shared(first: Any, second: Any, num_partitions: int) -> None:
    """Poll two members side by side until they share the partitions; in turns each may miss the other's rebalances."""
    ends, deadline = threading.Event(), time.monotonic() + 60

    def read_on() -> None:
        while not ends.is_set():
            second.poll(0.1)

    with ThreadPoolExecutor(1) as pool:
        other = pool.submit(read_on)
        shares = (0, 0)
        while 0 in shares or sum(shares) != num_partitions:
            if time.monotonic() > deadline:
                break
            first.poll(0.1)
            shares = (len(first._consumer.assignment()), len(second._consumer.assignment()))
        ends.set()
        other.result(60)
    assert sum(shares) == num_partitions, shares
    assert 0 not in shares, shares


def test_positions_of_partitions_that_moved_away_are_left_out_of_a_commit(broker: Broker) -> None:
    bus = connect(broker)
    for number in range(40):
        bus.publish(OUTCOMES, make_outcome(number))
    bus.flush()
    first = bus.reader([OUTCOMES], group="workers")
    poll_until(first, lambda found: len(found) == 40)
    everything = dict(first.positions())
    second = bus.reader([OUTCOMES], group="workers")
    poll_until_shared(first, second, len(everything))
    first.commit(everything)
    moved = everything.keys() - first.positions().keys()
    assert moved
    first.close()
    second.close()
    third = bus.reader([OUTCOMES], group="workers")
    assert {(record.topic, record.partition) for record in third.read_to_end()} == moved
    third.close()
    bus.close()


def test_an_end_that_does_not_come_from_a_broker_that_answers_is_an_error(broker: Broker) -> None:
    bus = connect(broker)
    reader = bus.reader([OUTCOMES])
    assert not list(reader.read_to_end())
    reader.pause()
    with pytest.raises(BusError, match=r"the end of .*outcomes was not reached in 1 s"):
        list(reader.read_to_end(timeout_seconds=1))
    reader.close()
    bus.close()

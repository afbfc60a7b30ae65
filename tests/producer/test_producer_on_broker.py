"""Producers in one group on a real broker: they share the prompts, come and go, and outlive a broker that is away."""

import os
import signal
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator

import pytest

from brokers import started_broker
from buses import as_part
from producer_run import MakeImage, ProducerRun, RunningProducer
from table_engine import TableEngine
from tristream.config.bus import BusSection
from tristream.config.run_file import RunFile
from tristream.local.broker import Broker
from tristream.producer.prompt_reading import GROUP
from tristream.runtime.bus.kafka import KafkaBus
from tristream.wire.events import Part, PartState
from tristream.wire.topics import PROMPTS

pytestmark = [pytest.mark.integration, pytest.mark.slow]


@pytest.fixture(scope="module", params=["embedded", "kafka"])
def broker(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    with started_broker(request.param, tmp_path_factory.mktemp("broker")) as broker:
        yield broker


@pytest.fixture
def run(broker: Broker, make_settings: Callable[..., RunFile], make_image: MakeImage) -> Iterator[ProducerRun]:
    own = f"test-{uuid.uuid4().hex[:8]}"
    bus = KafkaBus(
        "demo", BusSection(bootstrap_servers=broker.bootstrap_servers, num_partitions=8, prefix=own), Part.PRODUCER
    )
    bus.create_topics()
    run = ProducerRun(make_settings(), make_image, bus)
    run.publish_bytes(0)
    bus.flush()
    yield run
    bus.close()


def start(run: ProducerRun, instance: str) -> RunningProducer:
    engine = TableEngine(run.encoder, max_running=16, token_seconds=0.02)
    return run.start(engine, instance=instance, bus=as_part(run.bus, Part.PRODUCER))


def must_be_whole(run: ProducerRun, num_prompts: int) -> Counter[str]:
    """See that every rollout of every prompt is there; returns how often."""
    run.bus.flush()
    counts = Counter(rollout.id for rollout in run.in_order())
    assert set(counts) == {f"demo/{number}/{index}" for number in range(num_prompts) for index in range(3)}
    reader = run.bus.reader([PROMPTS], group=GROUP)
    assert not list(reader.read_to_end()), "all are committed"
    reader.close()
    return counts


def test_producers_that_join_and_leave_share_the_prompts_and_lose_none(run: ProducerRun) -> None:
    run.ask(*(run.training_prompt(number, max_tokens=20) for number in range(150)))
    first = start(run, "host-1")
    run.rollouts(30, seconds=60)
    second = start(run, "host-2")
    run.wait_until(lambda: any(r.producer == "host-2" for r in run.in_order()), "work of the second", seconds=60)
    first.stop()
    assert first.error is None
    run.wait_until(lambda: len({r.id for r in run.in_order()}) == 450, "all rollouts", seconds=120)
    time.sleep(1.0)
    second.stop()
    assert second.error is None
    counts = must_be_whole(run, 150)
    assert sum(counts.values()) < 450 + 150, "only what was in work when a partition moved is answered twice"


def test_a_broker_that_is_away_while_rollouts_are_in_flight_costs_none(run: ProducerRun, broker: Broker) -> None:
    run.ask(*(run.training_prompt(number, max_tokens=20) for number in range(40)))
    producer = start(run, "host-1")
    run.rollouts(10, seconds=60)
    os.kill(broker.pid, signal.SIGSTOP)
    time.sleep(8.0)  # longer than its session
    os.kill(broker.pid, signal.SIGCONT)
    run.wait_until(lambda: len({r.id for r in run.in_order()}) == 120, "all rollouts", seconds=120)
    time.sleep(1.0)
    producer.stop()
    assert producer.error is None
    must_be_whole(run, 40)


def test_a_producer_without_room_lets_others_join_its_group(run: ProducerRun) -> None:
    run.ask(*(run.training_prompt(number, max_tokens=200) for number in range(200)))
    first = start(run, "host-1")  # a rollout takes four seconds
    run.wait_until(lambda: run.measure("num_running") == 16, "a full engine", seconds=60)
    second = start(run, "host-2")
    run.wait_until(
        lambda: run.newest_statuses()["host-2"].measures.get("num_running") == 16, "work of the second", seconds=20
    )
    for producer in (first, second):
        producer.stop()
        assert producer.error is None
    assert {status.state for status in run.newest_statuses().values()} == {PartState.DONE}

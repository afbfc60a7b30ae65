"""How many events a CPU second the sink writes: from encoded records in memory, and from a broker by its client."""

import gc
import tempfile
import threading
import time
from pathlib import Path

from bench.assembler import make_broker, started
from bench.synthetic_groups import GroupShape, make_prompt, make_reward, make_rollouts

from tristream.config.bus import BusSection
from tristream.monitoring.store.clickhouse import open_embedded
from tristream.monitoring.store.client import Client
from tristream.monitoring.store.migrations import migrate
from tristream.monitoring.store.sink import Sink
from tristream.runtime.bus.kafka import KafkaBus
from tristream.runtime.bus.memory import MemoryBus
from tristream.runtime.bus.protocol import Bus
from tristream.wire.events import Rollout
from tristream.wire.topics import PROMPTS, REWARDS, ROLLOUTS

SHAPE = GroupShape(num_rollouts=8, num_prompt_tokens=100, num_sampled_tokens=100)
KINDS = ("rollouts", "rewards")


def measure_sink(folder: Path, num_groups: int) -> dict[str, float]:
    """Rollouts and rewards a CPU second that are written, closed and committed; ``kafka_...`` from a broker."""
    client = open_embedded(folder)
    migrate(client)
    groups = [make_rollouts(SHAPE, number) for number in range(num_groups)]
    num_events = SHAPE.num_rollouts * num_groups
    rates: dict[str, float] = {}
    for kind in KINDS:
        bus = MemoryBus(f"sink-{kind}")
        _publish(bus, kind, groups)
        rates[f"{kind}_per_second"] = num_events / _write(bus, client)
    with tempfile.TemporaryDirectory(prefix="bench-monitoring-broker-") as name:
        broker = make_broker(Path(name))
        with started(broker):
            settings = BusSection(bootstrap_servers=broker.bootstrap_servers)
            for kind in KINDS:
                rates[f"kafka_{kind}_per_second"] = num_events / _measure_kafka(settings, kind, groups, client)
    client.close()
    return rates


def _measure_kafka(settings: BusSection, kind: str, groups: list[list[Rollout]], client: Client) -> float:
    run = f"sink-kafka-{kind}"
    publisher = KafkaBus(run, settings, "bench")
    publisher.create_topics()
    _publish(publisher, kind, groups)
    publisher.close()
    bus = KafkaBus(run, settings, "monitor")
    try:
        return _write(bus, client)
    finally:
        bus.close()


def _publish(bus: Bus, kind: str, groups: list[list[Rollout]]) -> None:
    """Rollouts with their prompts, or rewards."""
    for rollouts in groups:
        for rollout in rollouts:
            if kind == "rollouts":
                bus.publish(ROLLOUTS, rollout)
            else:
                bus.publish(REWARDS, make_reward(rollout))
        if kind == "rollouts":
            bus.publish(PROMPTS, make_prompt(rollouts[0]))


def _write(bus: Bus, client: Client) -> float:
    """Write all that is on a bus; returns the CPU seconds of this process."""
    gc.freeze()  # a monitor holds no events but those that it writes
    started_seconds = time.process_time()
    sink = Sink(bus, client, flush_seconds=1.0, stop=threading.Event())
    sink.drain()
    cpu_seconds = time.process_time() - started_seconds
    sink.close()
    return cpu_seconds

"""Time the assembler alone: a log of groups on a broker, and a learner that takes batches and trains nothing.

The log is written before the assembler starts, so that it always has something to do. What counts is the CPU time of
its process, all threads together, as if it had one core: so it does not matter what else the machine does. The broker
is Apache Kafka where ``KAFKA_HOME`` names one, else the embedded one.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import grpc
from bench.measuring import CLOCK_TICKS_PER_SECOND, DEMO, load_demo, make_table, say, show, write_results
from bench.memory import measure_assembler
from bench.synthetic_groups import (
    RUN,
    GroupShape,
    add_shape_arguments,
    make_prompt,
    make_reward,
    make_rollouts,
    take_shape,
)

from tristream.batches.v1 import batch_service_pb2, batch_service_pb2_grpc
from tristream.config.parts import AssemblerSettings
from tristream.config.run_file import RunFile
from tristream.local.broker import Broker, free_port, make_embedded_broker, make_kafka
from tristream.runtime.bus.kafka import KafkaBus
from tristream.wire.batches import MAX_MESSAGE_BYTES, Batch, Commit, CommittedStep, NotReady
from tristream.wire.codecs.batches import batch_from_message, commit_to_message
from tristream.wire.codecs.ledgers import ledger_to_message
from tristream.wire.events import Ledger
from tristream.wire.ledger import IntervalSet
from tristream.wire.topics import PROMPTS, REWARDS, ROLLOUTS

GOAL_REWARDS_PER_SECOND = 5000
GOAL_KIB_PER_GROUP = 50
NUM_MEMORY_GROUPS = 64
STEPS_PER_COMMIT = 10
PROGRAM = """
import sys
from tristream.assembler.main import main
from tristream.config.parts import AssemblerSettings
main(AssemblerSettings.model_validate_json(sys.argv[1]))
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Phase:
    """A part of the work."""

    name: str
    num_rewards: int
    cpu_seconds: float
    wall_seconds: float

    @property
    def rewards_per_cpu_second(self) -> float:
        """Rewards that one core manages."""
        return self.num_rewards / self.cpu_seconds


class NullLearner:
    """Takes batches, settles them, trains nothing."""

    def __init__(self, channel: grpc.Channel) -> None:
        self._stub = batch_service_pb2_grpc.BatchServiceStub(channel)
        self._settled = IntervalSet()
        self._pending: list[CommittedStep] = []
        self.ledger = Ledger(step=0)

    def attach(self) -> None:
        """Wait until the assembler has read the log."""
        request = batch_service_pb2.AttachRequest(run=RUN, world_size=1, ledger=ledger_to_message(self.ledger))
        while not self._stub.Attach(request, timeout=60, wait_for_ready=True).ready:
            pass

    def step(self) -> None:
        """Take the next batch; every so often tell that all before it is durable."""
        step = self.ledger.step + 1
        while isinstance(batch := self._ask(step), NotReady):
            pass
        for number in (*batch.trained, *batch.dropped):
            self._settled.add(number)
        self.ledger = Ledger(step=step, settled=self._settled.intervals, position=batch.position)
        self._pending.append(CommittedStep(step=step, outcomes=batch.outcomes))
        if step % STEPS_PER_COMMIT == 0:
            self._stub.Commit(commit_to_message(Commit(ledger=self.ledger, steps=tuple(self._pending))), timeout=60)
            self._pending = []

    def _ask(self, step: int) -> Batch | NotReady:
        answer = self._stub.NextBatch(batch_service_pb2.NextBatchRequest(step=step), timeout=60)
        return batch_from_message(answer, step=step, rank=0)


def make_broker(folder: Path) -> Broker:
    home = os.environ.get("KAFKA_HOME")
    return make_kafka(Path(home), folder) if home else make_embedded_broker(folder)


@contextmanager
def started(broker: Broker) -> Iterator[None]:
    try:
        broker.start()
        yield
    finally:
        broker.stop()


def write_log(settings: RunFile, shape: GroupShape, num_groups: int) -> None:
    """Publish the groups as dispatcher, producers and verifiers do."""
    bus = KafkaBus(RUN, settings.bus, "bench")
    bus.create_topics()
    for number in range(num_groups):
        rollouts = make_rollouts(shape, number)
        bus.publish(PROMPTS, make_prompt(rollouts[0]))
        for rollout in rollouts:
            bus.publish(ROLLOUTS, rollout)
            bus.publish(REWARDS, make_reward(rollout))
    bus.flush()
    bus.close()


def measure(settings: RunFile, *, num_groups: int, num_rollouts: int) -> list[Phase]:
    """Have all groups joined, then served and committed, by an assembler of its own process."""
    part = AssemblerSettings.of(settings)
    process = subprocess.Popen([sys.executable, "-c", PROGRAM, part.model_dump_json()])
    options = [("grpc.max_receive_message_length", MAX_MESSAGE_BYTES)]
    try:
        with grpc.insecure_channel(part.assembly.address, options=options) as channel:
            grpc.channel_ready_future(channel).result(timeout=60)
            learner = NullLearner(channel)
            marks = [(time.monotonic(), cpu_seconds(process.pid))]
            learner.attach()
            marks.append((time.monotonic(), cpu_seconds(process.pid)))
            for _ in range(num_groups // part.rollout.groups_per_step):
                learner.step()
            marks.append((time.monotonic(), cpu_seconds(process.pid)))
    finally:
        process.terminate()
        process.wait(timeout=60)
    num_rewards = num_groups * num_rollouts
    return [
        Phase(name=name, num_rewards=num_rewards, cpu_seconds=end[1] - start[1], wall_seconds=end[0] - start[0])
        for name, start, end in (
            ("read, joined and judged", marks[0], marks[1]),
            ("served and committed", marks[1], marks[2]),
            ("all", marks[0], marks[2]),
        )
    ]


def cpu_seconds(pid: int) -> float:
    """CPU seconds that a process has used since it started, all threads together."""
    words = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(words[11]) + int(words[12])) / CLOCK_TICKS_PER_SECOND


def print_tables(broker: str, shape: GroupShape, phases: list[Phase], kib_beyond: dict[str, float]) -> None:
    title = (
        f"the assembler on {broker}: groups of {shape.num_rollouts}, {shape.num_prompt_tokens} + "
        f"{shape.num_sampled_tokens} tokens"
    )
    rows = [
        (
            phase.name,
            f"{phase.num_rewards}",
            f"{phase.cpu_seconds:.2f}",
            f"{phase.wall_seconds:.2f}",
            f"{1e6 * phase.cpu_seconds / phase.num_rewards:.0f}",
            f"{phase.rewards_per_cpu_second:.0f}",
        )
        for phase in phases
    ]
    columns = ("what", "rewards", "CPU s", "wall s", "CPU us/reward", "rewards/s on one core")
    memory = [(name, f"{count:.1f}") for name, count in kib_beyond.items()]
    show(make_table(title, columns, rows), make_table("memory", ("what", "KiB/group beyond its tokens"), memory))
    for name, measured, goal, is_met in (
        (
            "rewards/s on one core",
            phases[-1].rewards_per_cpu_second,
            f"at least {GOAL_REWARDS_PER_SECOND}",
            phases[-1].rewards_per_cpu_second >= GOAL_REWARDS_PER_SECOND,
        ),
        (
            "KiB a group in flight beyond its tokens",
            max(kib_beyond.values()),
            f"at most {GOAL_KIB_PER_GROUP}",
            max(kib_beyond.values()) <= GOAL_KIB_PER_GROUP,
        ),
    ):
        print(f"goal: {name} {goal}: {measured:.1f}, {'met' if is_met else 'MISSED'}")


def parse_arguments() -> tuple[argparse.Namespace, GroupShape]:
    parser = argparse.ArgumentParser(prog="python -m bench.assembler", description="Time the assembler alone.")
    parser.add_argument("--groups", type=int, default=3200, help="groups on the log (default: 3200)")
    parser.add_argument("--groups-per-step", type=int, default=64, help="groups of a batch (default: 64)")
    add_shape_arguments(parser, num_sampled_tokens=200)
    arguments = parser.parse_args()
    if not 1 <= arguments.groups_per_step <= arguments.groups:
        parser.error("--groups-per-step is 1 or more, and --groups no less than it")
    return arguments, take_shape(parser, arguments)


def main() -> None:
    """Measure, print, write ``bench/results/assembler.json``."""
    arguments, shape = parse_arguments()
    with tempfile.TemporaryDirectory() as folder:
        broker = make_broker(Path(folder))
        keys = [
            f"run.id={RUN}",
            f"bus.bootstrap_servers={broker.bootstrap_servers}",
            f"assembly.address=127.0.0.1:{free_port()}",
            f"rollout.group_size={arguments.rollouts}",
            f"rollout.groups_per_step={arguments.groups_per_step}",
            f"rollout.max_staleness={arguments.groups}",
        ]
        settings = load_demo(DEMO, Path(folder), keys)
        with started(broker):
            say(f"writing {arguments.groups} groups to {broker.kind}")
            write_log(settings, shape, arguments.groups)
            say("measuring the assembler")
            phases = measure(
                settings,
                num_groups=arguments.groups,
                num_rollouts=arguments.rollouts,
            )
        held = measure_assembler(settings, shape, NUM_MEMORY_GROUPS)
    kib_beyond = {one.holder: (one.bytes_per_group - shape.packed_bytes) / 1024 for one in held}
    print_tables(broker.kind, shape, phases, kib_beyond)
    results: dict[str, Any] = {
        "broker": broker.kind,
        "shape": asdict(shape),
        "phases": [asdict(phase) for phase in phases],
        "kib_per_group_beyond_tokens": kib_beyond,
    }
    print(f"written to {write_results('assembler', results)}")


if __name__ == "__main__":
    main()

"""Count what assembler and verifier hold of a group in flight, beside the packed size of its tokens.

Synthetic rollouts are encoded and decoded by the codecs, as on their way over a broker. Counted are the allocations of
Python (``tracemalloc``): they depend on the code alone, not on what else the machine does. Left out are images, which
come and stay as they are, and what Kafka's clients and Faust buffer.
"""

import argparse
import gc
import tempfile
import threading
import time
import tracemalloc
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

from bench.measuring import DEMO, load_demo, make_table, show, write_results
from bench.synthetic_groups import (
    RUN,
    TERM,
    GroupShape,
    add_shape_arguments,
    encode,
    make_prompt,
    make_reward,
    make_rollouts,
    take_shape,
)

from tristream.assembler.assembly import Assembly
from tristream.assembler.decoding import PROMPT_FACTS, REWARD_FACTS, ROLLOUT_FACTS
from tristream.config.parts import AssemblerSettings
from tristream.config.run_file import RunFile
from tristream.runtime.bus.memory import MemoryBus
from tristream.runtime.bus.protocol import Record
from tristream.verifiers.pool.pool import Pool
from tristream.verifiers.service.scoring import RolloutScorer
from tristream.verifiers.service.terms import Serving
from tristream.verifiers.service.window import Lane, Window
from tristream.wire.events import Ledger
from tristream.wire.topics import PROMPTS, REWARDS, ROLLOUTS, Topic
from tristream.wire.verifiers import versioned_name

EventT = TypeVar("EventT")


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """What somebody had in memory."""

    holder: str
    num_groups: int
    bytes_per_group: float


def held_bytes() -> int:
    """Bytes of what is allocated and was since counting began."""
    gc.collect()
    return tracemalloc.get_traced_memory()[0]


def measure_assembler(settings: RunFile, shape: GroupShape, num_groups: int) -> list[Held]:
    """Groups whose rewards are still to come, and the same groups once they are judged."""
    made = [rollout for number in range(num_groups) for rollout in make_rollouts(shape, number)]
    rollouts, rewards = encode(ROLLOUTS, made), encode(REWARDS, map(make_reward, made))
    prompts = encode(PROMPTS, (make_prompt(rollout) for rollout in made if rollout.index == 0))
    del made
    run = settings.run.model_copy(update={"id": RUN})
    assembly = Assembly(AssemblerSettings.of(settings.model_copy(update={"run": run})))
    assembly.attach(Ledger(step=0), 1, "")
    assembly.finish_reading()
    tracemalloc.start()
    before = held_bytes()
    observe(assembly, PROMPT_FACTS, prompts)
    observe(assembly, ROLLOUT_FACTS, rollouts)
    num_open, open_bytes = assembly.num_open, held_bytes() - before
    observe(assembly, REWARD_FACTS, rewards)
    num_ready, ready_bytes = assembly.num_ready, held_bytes() - before
    tracemalloc.stop()
    if (num_open, num_ready) != (num_groups, num_groups):
        raise ValueError(f"the assembler held {num_open} open groups and {num_ready} judged ones of {num_groups}")
    return [
        make_held("assembler: groups that wait for rewards", num_groups, open_bytes),
        make_held("assembler: groups that wait for a batch", num_groups, ready_bytes),
    ]


def observe(assembly: Assembly, topic: Topic[Any], records: Sequence[Record[bytes]]) -> None:
    for record in records:
        position = (record.topic, record.partition, record.offset)
        assembly.observe(topic.codec.decode(record.event), position, now_seconds=0.0, now_ns=1)


def measure_verifier(shape: GroupShape, num_groups: int) -> list[Held]:
    """Records of some groups that a worker takes at once, and what it holds beside them until it is done."""
    made = [rollout for number in range(num_groups) for rollout in make_rollouts(shape, number)]
    pool = Pool({versioned_name(TERM.verifier, TERM.version): ""}, num_processes=1)
    pool.start()
    try:
        score(encode(ROLLOUTS, made[:1]), pool)  # so that nothing is imported while it counts
        tracemalloc.start()
        before = held_bytes()
        records = encode(ROLLOUTS, made)
        fetched = held_bytes()
        tracemalloc.reset_peak()
        scored = score(records, pool)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    finally:
        pool.stop()
    return [
        make_held("verifier: records of a batch, as they came", num_groups, fetched - before),
        make_held("verifier: beside them, when all are scored", num_groups, scored - fetched),
        make_held("verifier: beside them, at most", num_groups, peak - fetched),
    ]


class LateBus(MemoryBus):
    """A broker that acknowledges no reward before the last of them, and keeps none."""

    def __init__(self, num_rewards: int) -> None:
        super().__init__(RUN)
        self.held_bytes = 0
        """Bytes held when the last reward was published."""
        self._num_to_come = num_rewards
        self._unacknowledged: list[Future[None]] = []
        self._lock = threading.Lock()

    def publish(self, topic: Topic[EventT], event: EventT) -> "Future[None]":
        """Take a reward."""
        delivered: Future[None] = Future()
        with self._lock:
            self._unacknowledged.append(delivered)
            self._num_to_come -= 1
            is_last = self._num_to_come == 0
        if is_last:
            self.held_bytes = held_bytes()
            for waiting in self._unacknowledged:
                waiting.set_result(None)
        return delivered


def score(records: Sequence[Record[bytes]], pool: Pool) -> int:
    """Score rollouts for a broker that acknowledges no reward before the last; returns the bytes held by then."""
    bus = LateBus(len(records))
    window = Window({Lane.PURE: len(records), Lane.ASYNC: len(records)})
    window.assign({0: 0})
    scorer = RolloutScorer(Serving(facts=pool.facts), pool, bus, window)
    tickets = [window.take(0, offset) for offset in range(len(records))]
    scorer.take([(record, ticket) for record, ticket in zip(records, tickets, strict=True) if ticket is not None])
    while window.marks()[0] < len(records):
        if window.failure is not None:
            raise window.failure
        time.sleep(0.01)
    scorer.close()
    return bus.held_bytes


def make_held(holder: str, num_groups: int, num_bytes: int) -> Held:
    return Held(holder=holder, num_groups=num_groups, bytes_per_group=num_bytes / num_groups)


def print_table(shape: GroupShape, held: Sequence[Held]) -> None:
    packed = ("tokens and log-probabilities, packed", "", shape.packed_bytes)
    rows = [packed, *((one.holder, f"{one.num_groups}", one.bytes_per_group) for one in held)]
    title = (
        f"memory of a group in flight: {shape.num_rollouts} rollouts of {shape.num_sampled_tokens} sampled tokens, "
        f"a prompt of {shape.num_prompt_tokens}"
    )
    columns = ("what", "groups held", "KiB/group", "of the packed size")
    cells = [
        (what, groups, f"{count / 1024:.1f}", f"{100 * count / shape.packed_bytes:.0f} %")
        for what, groups, count in rows
    ]
    show(make_table(title, columns, cells))


def parse_arguments() -> tuple[argparse.Namespace, GroupShape]:
    parser = argparse.ArgumentParser(
        prog="python -m bench.memory", description="Count what assembler and verifier hold of a group in flight."
    )
    parser.add_argument("--groups", type=int, default=32, help="groups that the assembler holds (default: 32)")
    add_shape_arguments(parser, num_sampled_tokens=2000)
    arguments = parser.parse_args()
    if arguments.groups < 1:
        parser.error("--groups is 1 or more")
    return arguments, take_shape(parser, arguments)


def main() -> None:
    """Measure, print, write ``bench/results/memory.json``."""
    arguments, shape = parse_arguments()
    with tempfile.TemporaryDirectory() as folder:
        settings = load_demo(DEMO, Path(folder))
    num_at_once = max(1, settings.verification.batch_size // shape.num_rollouts)
    held = [*measure_assembler(settings, shape, arguments.groups), *measure_verifier(shape, num_at_once)]
    print_table(shape, held)
    results: dict[str, Any] = {
        "shape": asdict(shape),
        "packed_bytes_per_group": shape.packed_bytes,
        "held": [asdict(one) for one in held],
    }
    print(f"written to {write_results('memory', results)}")


if __name__ == "__main__":
    main()

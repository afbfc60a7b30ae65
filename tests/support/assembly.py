"""Builders and a running assembler for tests of the assembly."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tristream.assembler.assembler import Assembler
from tristream.config.run_file import RunFile
from tristream.runtime.bus.memory import MemoryBus
from tristream.wire import events
from tristream.wire.batches import Batch
from tristream.wire.events import Group, Outcome, Reward, Rollout, Split, Status
from tristream.wire.ledger import IntervalSet, Ledger
from tristream.wire.topics import OUTCOMES, REWARDS, ROLLOUTS

GROUP_SIZE = 4


def make_settings(tmp_path: Path, **assembly: object) -> RunFile:
    return RunFile.model_validate(
        {
            "run": {"id": "test", "steps": 9, "output": tmp_path},
            "model": {"path": "model"},
            "sources": [{"name": "words", "train": "train.parquet"}],
            "rollout": {"groups_per_step": 2, "group_size": GROUP_SIZE, "max_staleness": 1},
            "assembly": assembly,
        }
    )


def make_group(number: int, split: Split = Split.TRAIN, size: int = GROUP_SIZE) -> Group:
    return Group(run="test", split=split, number=number, source="words", sample_id=str(number), size=size)


def make_rollout(group: Group, index: int, version: int = 0) -> Rollout:
    return Rollout(
        group=group,
        index=index,
        prompt_tokens=(1, 2, 3),
        completion_tokens=(4, 5),
        logprobs=(-0.5, -0.25),
        version_spans=(events.VersionSpan(version=version, start=0, end=2),),
        text="four",
        finish_reason=events.FinishReason.STOP,
        images=(),
        prompt_text="2+2?",
        reward=events.RewardSpec(
            terms=(events.RewardTerm(verifier="math", weights={"accuracy": 1.0}),), ground_truth="4"
        ),
        progress=events.Progress(step=1, total_steps=9),
        temperature=1.0,
        queued_seconds=0.0,
        generate_seconds=0.0,
        producer="test",
        created_ns=1,
    )


def make_reward(group: Group, index: int, accuracy: float, status: Status = Status.SCORED) -> Reward:
    return Reward(
        group=group,
        index=index,
        verifier="math",
        version="1",
        status=status,
        components={"accuracy": accuracy} if status is Status.SCORED else {},
        queued_seconds=0.0,
        score_seconds=0.0,
        created_ns=1,
    )


def publish_group(bus: MemoryBus, number: int, accuracies: list[float] | None = None, version: int = 0) -> None:
    group = make_group(number)
    for index, accuracy in enumerate(accuracies or [1.0, 0.0, 0.0, 1.0]):
        bus.publish(ROLLOUTS, make_rollout(group, index, version))
        bus.publish(REWARDS, make_reward(group, index, accuracy))


@contextmanager
def running(assembler: Assembler) -> Iterator[Assembler]:
    """Run the reading thread of an assembler."""
    stop = threading.Event()

    def work() -> None:
        while not stop.is_set():
            assembler.work()

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield assembler
    finally:
        stop.set()
        thread.join()


def next_batch(assembler: Assembler, step: int, rank: int = 0) -> Batch:
    batch = assembler.next_batch(step, rank, timeout_seconds=5.0)
    assert isinstance(batch, Batch)
    return batch


def outcomes(bus: MemoryBus) -> list[Outcome]:
    found = [record.event for record in bus.reader([OUTCOMES]).read_to_end()]
    return sorted(found, key=lambda outcome: outcome.group.number)


def ledger_after(*batches: Batch) -> Ledger:
    settled = IntervalSet.of([number for batch in batches for number in (*batch.trained, *batch.dropped)])
    return Ledger(step=batches[-1].step, settled=settled.intervals, offsets=batches[-1].offsets)

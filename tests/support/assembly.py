"""Builders, a log that assemblies read, and a served assembler for tests of the assembly."""

import asyncio
import json
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tristream.assembler.assembly import Assembly
from tristream.assembler.main import assemble
from tristream.assembler.shards import BuiltBatch
from tristream.config.parts import AssemblerSettings
from tristream.config.run_file import RunFile
from tristream.runtime.bus.memory import MemoryBus
from tristream.runtime.status import PartReporter
from tristream.wire import events
from tristream.wire.arrays import LogProbs, Tokens
from tristream.wire.batches import Batch, Commit, CommittedStep, NotReady
from tristream.wire.events import (
    Group,
    Image,
    Outcome,
    Part,
    Reward,
    RewardSpec,
    RewardTerm,
    Rollout,
    Split,
    Status,
    TermMode,
    VersionSpan,
)
from tristream.wire.ledger import IntervalSet, Ledger
from tristream.wire.topics import OUTCOMES, REWARDS, ROLLOUTS

GROUP_SIZE = 4
NUM_PARTITIONS = 2
MATH = RewardTerm(id="math", verifier="math", version="1", weights={"accuracy": 1.0})


def make_settings(output: Path = Path("unused"), *, groups_per_step: int = 2, **assembly: object) -> AssemblerSettings:
    return AssemblerSettings.of(
        RunFile.model_validate(
            {
                "run": {"id": "test", "steps": 9, "output": output},
                "model": {"path": "model"},
                "sources": [{"name": "words", "train": "train.parquet"}],
                "rollout": {"groups_per_step": groups_per_step, "group_size": GROUP_SIZE, "max_staleness": 1},
                "assembly": {"address": "127.0.0.1:0", **assembly},
            }
        )
    )


def make_group(number: int, split: Split = Split.TRAIN, size: int = GROUP_SIZE) -> Group:
    return Group(run="test", split=split, number=number, source="words", sample_id=str(number), size=size)


def make_definition(*terms: RewardTerm, on_unscored: events.OnUnscored = events.OnUnscored.LEAVE_OUT) -> RewardSpec:
    return RewardSpec(terms=terms or (MATH,), ground_truth="4", on_unscored=on_unscored)


def make_rollout(
    group: Group,
    index: int,
    version: int = 0,
    *,
    definition: RewardSpec | None = None,
    num_sampled_tokens: int = 2,
    images: tuple[Image, ...] = (),
    finish_reason: events.FinishReason = events.FinishReason.STOP,
) -> Rollout:
    spans = (VersionSpan(version=version, start=0, end=num_sampled_tokens),)
    tokens = Tokens.of(range(4, 4 + num_sampled_tokens))
    logprobs = LogProbs.of([-0.5, -0.25] * (num_sampled_tokens // 2))
    return Rollout(
        group=group,
        index=index,
        segments=(events.given(Tokens.of([1, 2, 3]), images), events.sampled(tokens, logprobs, spans))
        if num_sampled_tokens
        else (),
        text="four",
        finish_reason=finish_reason,
        prompt_text="2+2?",
        reward=make_definition() if definition is None else definition,
        progress=events.Progress(step=1, total_steps=9),
        temperature=1.0,
        queued_seconds=0.0,
        generate_seconds=0.0,
        producer="test",
        created_ns=1,
    )


def make_reward(
    group: Group, index: int, accuracy: float, status: Status = Status.SCORED, *, term: RewardTerm = MATH
) -> Reward:
    return Reward(
        group=group,
        index=index,
        term_id=term.id,
        verifier=term.verifier,
        version=term.version,
        mode=TermMode(term.mode),
        status=status,
        components={"accuracy": accuracy} if status is Status.SCORED else {},
        queued_seconds=0.0,
        score_seconds=0.0,
        created_ns=1,
    )


def group_events(number: int, accuracies: list[float] | None = None, version: int = 0) -> list[Rollout | Reward]:
    group = make_group(number)
    made: list[Rollout | Reward] = []
    for index, accuracy in enumerate(accuracies or [1.0, 0.0, 0.0, 1.0]):
        made += [make_rollout(group, index, version), make_reward(group, index, accuracy)]
    return made


def publish_group(bus: MemoryBus, number: int, accuracies: list[float] | None = None, version: int = 0) -> None:
    for event in group_events(number, accuracies, version):
        bus.publish(ROLLOUTS, event) if isinstance(event, Rollout) else bus.publish(REWARDS, event)


def outcomes_on(bus: MemoryBus) -> list[Outcome]:
    found = [record.event for record in bus.reader([OUTCOMES]).read_to_end()]
    return sorted(found, key=lambda outcome: outcome.group.number)


def ledger_after(*batches: Batch | BuiltBatch, start: Ledger | None = None) -> Ledger:
    settled = IntervalSet(start.settled if start is not None else ())
    for batch in batches:
        for number in (*(outcome.group.number for outcome in batch.outcomes), *batch.dropped):
            settled.add(number)
    return Ledger(step=batches[-1].step, settled=settled.intervals, offsets=batches[-1].offsets)


class Log:
    """A log of rollouts and rewards, the outcomes on it, and the assembly that reads it."""

    def __init__(self, settings: AssemblerSettings, *published: Rollout | Reward) -> None:
        self._settings = settings
        self._records: list[tuple[Rollout | Reward, tuple[str, int, int]]] = []
        self._offsets: dict[tuple[str, int], int] = {}
        self._cursor = 0
        self.now_seconds = 0.0
        self.outcomes: list[Outcome] = []
        self.assembly = Assembly(settings)
        self.publish(*published)

    def publish(self, *published: Rollout | Reward) -> None:
        for event in published:
            key = ("rollouts" if isinstance(event, Rollout) else "rewards", event.group.number % NUM_PARTITIONS)
            offset = self._offsets.get(key, 0)
            self._offsets[key] = offset + 1
            self._records.append((event, (*key, offset)))

    def attach(self, ledger: Ledger | None = None, world_size: int = 1) -> None:
        """Attach as the service does it: read again only what has to be."""
        ledger = Ledger(step=0) if ledger is None else ledger
        if self.assembly.continues(ledger, world_size):
            return
        self.assembly.attach(ledger, self.outcomes, world_size)
        self._cursor, self._starts = 0, self.assembly.start_offsets(ledger)

    def restart_assembler(self, ledger: Ledger | None = None) -> None:
        self.assembly = Assembly(self._settings)
        self.attach(ledger)

    def read(self, num_records: int | None = None) -> None:
        """Observe the next records, all that there are by default, and give up what is overdue."""
        end = len(self._records) if num_records is None else self._cursor + num_records
        for event, (topic, partition, offset) in self._records[self._cursor : end]:
            if offset < self._starts.get((topic, partition), 0):
                continue
            outcome = self.assembly.observe(
                event, (topic, partition, offset), now_seconds=self.now_seconds, now_ns=len(self.outcomes)
            )
            if outcome is not None:
                self.outcomes.append(outcome)
        self._cursor = min(end, len(self._records))
        self.outcomes += self.assembly.give_up_overdue(now_seconds=self.now_seconds, now_ns=len(self.outcomes))

    def ask(self, step: int) -> BuiltBatch | NotReady:
        answer, outcomes = self.assembly.next_batch(step, now_ns=step)
        self.outcomes += outcomes
        return answer

    def batch(self, step: int) -> BuiltBatch:
        """Read everything, then the batch of a step, which must be there."""
        self.read()
        answer = self.ask(step)
        assert isinstance(answer, BuiltBatch), answer
        return answer

    def commit(self, ledger: Ledger, *batches: BuiltBatch) -> None:
        steps = tuple(CommittedStep(step=batch.step, outcomes=batch.outcomes) for batch in batches)
        self.outcomes += self.assembly.commit(Commit(ledger=ledger, steps=steps))


def numbers(batch: BuiltBatch | Batch) -> list[int]:
    return [outcome.group.number for outcome in batch.outcomes]


@dataclass(slots=True, kw_only=True)
class Served:
    """An assembler at work."""

    address: str
    ended: "Future[None]"
    """Done when the assembler has ended, with its error if it failed."""


@contextmanager
def served(settings: AssemblerSettings, bus: MemoryBus) -> Iterator[Served]:
    """Run an assembler in a thread of its own, on a free port."""
    stop = threading.Event()
    reporter = PartReporter(settings.run.folder, settings.run.id, Part.ASSEMBLER)
    status_file = settings.run.folder.status / "assembler.json"
    with ThreadPoolExecutor(1) as pool:
        ended = pool.submit(lambda: asyncio.run(assemble(settings, bus, reporter, stop)))
        try:
            while not status_file.exists() and not ended.done():
                time.sleep(0.01)
            address = json.loads(status_file.read_text())["address"]
            yield Served(address=address, ended=ended)
        finally:
            stop.set()
            ended.exception(timeout=30.0)

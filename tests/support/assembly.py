"""Builders, a log that assemblies read, and a served assembler for tests of the assembly."""

import asyncio
import json
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tristream.assembler.assembly import Assembly
from tristream.assembler.facts import Fact, outcome_fact, prompt_fact, reward_fact, rollout_fact
from tristream.assembler.main import assemble
from tristream.assembler.shards import BuiltBatch
from tristream.config.parts import AssemblerSettings
from tristream.config.run_file import RunFile
from tristream.runtime.bus.protocol import Bus
from tristream.runtime.errors import UserError
from tristream.runtime.status import PartReporter
from tristream.wire import events
from tristream.wire.arrays import LogProbs, Tokens
from tristream.wire.batches import Batch, Commit, CommittedStep, NotReady
from tristream.wire.events import (
    Group,
    Image,
    Ledger,
    Outcome,
    Part,
    Prompt,
    Reward,
    RewardSpec,
    RewardTerm,
    Rollout,
    Split,
    Status,
    TermMode,
    VersionSpan,
)
from tristream.wire.ledger import IntervalSet
from tristream.wire.topics import OUTCOMES, PROMPTS, REWARDS, ROLLOUTS

Event = Prompt | Rollout | Reward | Outcome

GROUP_SIZE = 4
NUM_PARTITIONS = 2
LOG_ID = "log"
MATH = RewardTerm(id="math", verifier="math", version="1", weights={"accuracy": 1.0})


def make_settings(
    output: Path = Path("unused"), *, groups_per_step: int = 2, max_staleness: int = 1, **assembly: object
) -> AssemblerSettings:
    return AssemblerSettings.of(
        RunFile.model_validate(
            {
                "run": {"id": "test", "steps": 9, "output": output},
                "model": {"path": "model"},
                "sources": [{"name": "words", "train": "train.parquet"}],
                "rollout": {
                    "groups_per_step": groups_per_step,
                    "group_size": GROUP_SIZE,
                    "max_staleness": max_staleness,
                },
                "assembly": {"address": "127.0.0.1:0", **assembly},
            }
        )
    )


def make_group(
    number: int, split: Split = Split.TRAIN, size: int = GROUP_SIZE, *, eval_step: int = 0, eval_attempt: int = 0
) -> Group:
    return Group(
        run="test",
        split=split,
        number=number,
        source="words",
        sample_id=str(number),
        size=size,
        eval_step=eval_step,
        eval_attempt=eval_attempt,
    )


def make_definition(*terms: RewardTerm, on_unscored: events.OnUnscored = events.OnUnscored.LEAVE_OUT) -> RewardSpec:
    return RewardSpec(terms=terms or (MATH,), ground_truth="4", on_unscored=on_unscored)


def make_prompt(group: Group, *, definition: RewardSpec | None = None, digest: str = "") -> Prompt:
    return Prompt(
        group=group,
        messages=(events.Message(role="user", content="2+2?"),),
        images=(),
        reward=make_definition() if definition is None else definition,
        sampling=events.Sampling(temperature=1.0, top_p=1.0, max_tokens=4, seed=1),
        progress=events.Progress(step=1, total_steps=9),
        digest=digest,
        created_ns=1,
    )


def make_rollout(
    group: Group,
    index: int,
    version: int = 0,
    *,
    definition: RewardSpec | None = None,
    num_sampled_tokens: int = 2,
    images: tuple[Image, ...] = (),
    finish_reason: events.FinishReason = events.FinishReason.STOP,
    digest: str = "",
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
        temperature=1.0 if group.split is Split.TRAIN else 0.0,  # held-out rows are answered greedily
        queued_seconds=0.0,
        generate_seconds=0.0,
        producer="test",
        prompt_digest=digest,
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


def group_events(
    number: int, accuracies: list[float] | None = None, version: int = 0
) -> list[Prompt | Rollout | Reward]:
    group = make_group(number)
    made: list[Prompt | Rollout | Reward] = [make_prompt(group)]
    for index, accuracy in enumerate(accuracies or [1.0, 0.0, 0.0, 1.0]):
        made += [make_rollout(group, index, version), make_reward(group, index, accuracy)]
    return made


def publish(bus: Bus, *published: Event) -> None:
    for event in published:
        if isinstance(event, Prompt):
            bus.publish(PROMPTS, event)
        elif isinstance(event, Rollout):
            bus.publish(ROLLOUTS, event)
        elif isinstance(event, Reward):
            bus.publish(REWARDS, event)
        else:
            bus.publish(OUTCOMES, event)


def publish_group(bus: Bus, number: int, accuracies: list[float] | None = None, version: int = 0) -> None:
    publish(bus, *group_events(number, accuracies, version))


def outcomes_on(bus: Bus) -> list[Outcome]:
    found = [record.event for record in bus.reader([OUTCOMES]).read_to_end()]
    return sorted(found, key=lambda outcome: outcome.group.number)


def ledger_after(*batches: Batch | BuiltBatch, start: Ledger | None = None) -> Ledger:
    settled = IntervalSet(start.settled if start is not None else ())
    for batch in batches:
        for number in (*(outcome.group.number for outcome in batch.outcomes), *batch.dropped):
            settled.add(number)
    return Ledger(step=batches[-1].step, settled=settled.intervals, position=batches[-1].position)


def fact_of(event: Event) -> tuple[str, Fact]:
    """The topic of an event, and what the assembler keeps of it."""
    if isinstance(event, Prompt):
        return "prompts", prompt_fact(event)
    if isinstance(event, Rollout):
        return "rollouts", rollout_fact(event)
    if isinstance(event, Reward):
        return "rewards", reward_fact(event)
    return "outcomes", outcome_fact(event)


class Log:
    """A log of events, and the assembly that reads it.

    A dispatcher came first: where a rollout is published whose group has no prompt, the prompt is published before.
    """

    def __init__(self, settings: AssemblerSettings, *published: Event, num_partitions: int = NUM_PARTITIONS) -> None:
        self._settings = settings
        self._num_partitions = num_partitions
        self._offsets: dict[tuple[str, int], int] = {}
        self._prompted: set[str] = set()
        self._cursor = self._end_at_attach = 0
        self._starts: Mapping[tuple[str, int], int] = {}
        self.records: list[tuple[Fact, tuple[str, int, int]]] = []
        self.now_seconds = 0.0
        self.outcomes: list[Outcome] = []
        """Those on the log."""
        self.assembly = Assembly(settings)
        self.publish(*published)

    def copy(self) -> "Log":
        """The same log as it is, before an assembly of its own."""
        copied = Log(self._settings, num_partitions=self._num_partitions)
        copied.records, copied.outcomes = list(self.records), list(self.outcomes)
        copied._offsets, copied._prompted = dict(self._offsets), set(self._prompted)
        return copied

    def publish(self, *published: Event) -> None:
        for event in published:
            if isinstance(event, Rollout) and event.group.id not in self._prompted:
                self.publish(make_prompt(event.group, definition=event.reward))
            self.publish_alone(event)

    def publish_alone(self, event: Event) -> None:
        """Publish an event and no prompt before it."""
        if isinstance(event, Prompt):
            self._prompted.add(event.group.id)
        if isinstance(event, Outcome):
            self.outcomes.append(event)
        topic, fact = fact_of(event)
        key = (topic, event.group.number % self._num_partitions)
        offset = self._offsets.get(key, 0)
        self._offsets[key] = offset + 1
        self.records.append((fact, (*key, offset)))

    def attach(self, ledger: Ledger | None = None, world_size: int = 1) -> None:
        """Attach as the service does it: read again only what has to be."""
        ledger = Ledger(step=0) if ledger is None else ledger
        self.assembly.check_ledger(ledger)
        if self.assembly.continues(ledger, world_size):
            return
        self._starts = self.assembly.attach(ledger, world_size, LOG_ID)
        self._cursor, self._end_at_attach = 0, len(self.records)
        if not self.records:
            self.publish_all(self.assembly.finish_reading())

    def restart_assembler(self, ledger: Ledger | None = None) -> None:
        self.assembly = Assembly(self._settings)
        self.attach(ledger)

    def read(self, num_records: int | None = None) -> None:
        """Observe the next records, all that there are by default; give up what is overdue once all are read."""
        end = len(self.records) if num_records is None else self._cursor + num_records
        for fact, (topic, partition, offset) in self.records[self._cursor : end]:
            self._cursor += 1
            if offset >= self._starts.get((topic, partition), 0):
                self._observe(fact, (topic, partition, offset))
            if self.assembly.reads_log and self._cursor >= self._end_at_attach:
                self.publish_all(self.assembly.finish_reading())
        if self._cursor == len(self.records) and self.assembly.has_overdue(self.now_seconds):
            self.publish_all(self.assembly.give_up_overdue(now_seconds=self.now_seconds, now_ns=len(self.outcomes)))

    def publish_all(self, outcomes: Sequence[Outcome]) -> None:
        """Publish what the assembly decided."""
        for outcome in outcomes:
            self.publish_alone(outcome)

    def ask(self, step: int) -> BuiltBatch | NotReady:
        answer, outcomes = self.assembly.next_batch(step, now_ns=step)
        self.publish_all(outcomes)
        return answer

    def batch(self, step: int) -> BuiltBatch:
        """Read everything, then the batch of a step, which must be there."""
        self.read()
        answer = self.ask(step)
        assert isinstance(answer, BuiltBatch), answer
        return answer

    def commit(self, ledger: Ledger, *batches: BuiltBatch) -> None:
        steps = tuple(CommittedStep(step=batch.step, outcomes=batch.outcomes) for batch in batches)
        self.publish_all(self.assembly.commit(Commit(ledger=ledger, steps=steps)))

    def _observe(self, fact: Fact, position: tuple[str, int, int]) -> None:
        outcome = self.assembly.observe(fact, position, now_seconds=self.now_seconds, now_ns=len(self.outcomes))
        if outcome is not None:
            self.publish_alone(outcome)


def numbers(batch: BuiltBatch | Batch) -> list[int]:
    return [outcome.group.number for outcome in batch.outcomes]


@dataclass(slots=True, kw_only=True)
class Served:
    """An assembler at work."""

    address: str
    ended: "Future[None]"
    """Done when the assembler has ended, with its error if it failed."""


class TestLease:
    """An assembler's lease whose clock a test sets, and that a test ends."""

    __test__ = False

    def __init__(self, epoch: int = 1) -> None:
        self.epoch = epoch
        self.log_seconds = 0.0
        self.successor = ""
        """Who has taken over."""

    def check(self) -> None:
        if self.successor:
            raise UserError(f"{self.successor} has taken over", where="run test", remedy="let it work")


@contextmanager
def served(settings: AssemblerSettings, bus: Bus, lease: TestLease | None = None) -> Iterator[Served]:
    """Run an assembler in a thread of its own, on a free port."""
    stop = threading.Event()
    reporter = PartReporter(settings.run.folder, settings.run.id, Part.ASSEMBLER)
    status_file = settings.run.folder.status / "assembler.json"
    status_file.unlink(missing_ok=True)
    with ThreadPoolExecutor(1) as pool:
        ended = pool.submit(
            lambda: asyncio.run(assemble(settings, bus, reporter, stop, claim=lambda: lease or TestLease()))
        )
        try:
            while not (status_file.exists() and json.loads(status_file.read_text())["address"]) and not ended.done():
                time.sleep(0.01)
            address = json.loads(status_file.read_text())["address"]
            yield Served(address=address, ended=ended)
        finally:
            stop.set()
            ended.exception(timeout=60)

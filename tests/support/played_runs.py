"""Plays small runs onto records, event by event, as the parts of a run would.

The honest run: five steps of three groups of four rollouts from two sources, evaluations at versions 0, 2, 4 and 5,
drops of five kinds, parts that are replaced after step 3, and a source that is paused and resumed.
"""

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from recorded_runs import GROUP_SIZE, GROUPS_PER_STEP, NUM_STEPS, RUN, RecordedRun
from tristream.assembler.rewards import final_reward, has_zero_variance
from tristream.runtime.run_folder import RunFolder
from tristream.wire import events
from tristream.wire.arrays import LogProbs, Tokens
from tristream.wire.batches import Commit
from tristream.wire.events import Command, CommandKind, DropReason, Fate, Group, Ledger, Outcome, Split
from tristream.wire.ledger import IntervalSet, number_checksum
from tristream.wire.topics import COMMANDS, OUTCOMES, POLICY, PROMPTS, REWARDS, ROLLOUTS, STEPS

PAUSED = range(6, 9)
"""Numbers at which source ``sums`` is paused."""
SPEC = events.RewardSpec(
    terms=(
        events.RewardTerm(id="math", verifier="math", version="1", weights={"accuracy": 3.0}),
        events.RewardTerm(id="form", verifier="form", version="2", weights={"format": 1.0}),
    ),
    ground_truth="4",
)


NUM_HELD_OUT = 4


class Play:
    """Plays a run onto a ``RecordedRun``, event by event, as its parts would."""

    def __init__(self, run: RecordedRun, *, epoch: int = 1, clock_ns: Callable[[int], int] = lambda tick: tick) -> None:
        self.run = run
        self.epoch = epoch
        self.number = 0
        self.step = 0
        self.settled, self.dropped = IntervalSet(), IntervalSet()
        self.durable = Ledger(step=0)
        self.pending: list[Outcome] = []
        self.batches: dict[int, list[Outcome]] = {}
        """Outcomes of each step that was trained."""
        self.life = 1
        """How often the learner was started."""
        self.contents: dict[int, int] = {}
        """In which life the weights of a version were trained."""
        self._clock_ns = clock_ns
        self._tick = 0

    def now_ns(self) -> int:
        self._tick += 1
        return self._clock_ns(self._tick)

    def take_over(self) -> None:
        """The parts of which a run has one are replaced."""
        self.epoch += 1
        self.run.fence(self.epoch)

    def begin(self) -> None:
        self.run.fence(self.epoch)
        self.announce()
        self.evaluate(0)

    def command(self, kind: CommandKind, from_number: int) -> None:
        command = Command(
            run=RUN,
            id=f"{kind}/{from_number}",
            kind=kind,
            sources=("sums",),
            from_number=from_number,
            created_ns=self.now_ns(),
        )
        self.run.add(COMMANDS, command, epoch=self.epoch)

    def source(self, number: int) -> str:
        return "words" if number % 2 == 0 or number in PAUSED else "sums"

    def next_number(self) -> int:
        self.number += 1
        return self.number - 1

    def dispatch(self, group: Group, weights: events.Weights | None = None) -> None:
        prompt = events.Prompt(
            group=group,
            messages=(events.Message(role="user", content=f"{group.number}?"),),
            images=(),
            reward=SPEC,
            sampling=events.Sampling(temperature=1.0, top_p=1.0, max_tokens=9, seed=group.number),
            progress=events.Progress(step=self.step, total_steps=NUM_STEPS),
            pinned_weights=weights,
            run_fingerprint="f",
            digest=digest_of(group),
            created_ns=self.now_ns(),
        )
        self.run.add(PROMPTS, prompt, epoch=self.epoch)

    def answer(self, group: Group, version: int, accuracies: Iterable[float]) -> tuple[events.RolloutOutcome, ...]:
        """Generate and score; returns what each rollout is worth."""
        worths = []
        for index, accuracy in enumerate(accuracies):
            self.run.add(ROLLOUTS, self.rollout(group, index, version))
            for term, name, value in (("math", "accuracy", accuracy), ("form", "format", 1.0)):
                self.run.add(REWARDS, self.reward(group, index, term, {name: value}))
            reward = final_reward(SPEC, {"math": {"accuracy": accuracy}, "form": {"format": 1.0}})
            assert reward is not None
            worths.append(events.RolloutOutcome(index=index, valid=True, reward=reward))
        return tuple(worths)

    def rollout(self, group: Group, index: int, version: int) -> events.Rollout:
        spans = (events.VersionSpan(version=version, start=0, end=2),)
        return events.Rollout(
            group=group,
            index=index,
            segments=(
                events.given(Tokens.of([1, 2])),
                events.sampled(Tokens.of([3, 4]), LogProbs.of([-0.5, -0.25]), spans),
            ),
            text="four",
            finish_reason=events.FinishReason.STOP,
            prompt_text=f"{group.number}?",
            reward=SPEC,
            progress=events.Progress(step=self.step, total_steps=NUM_STEPS),
            temperature=1.0,
            queued_seconds=0.0,
            generate_seconds=0.0,
            producer="producer-1",
            prompt_digest=digest_of(group),
            created_ns=self.now_ns(),
        )

    def reward(self, group: Group, index: int, term: str, components: dict[str, float]) -> events.Reward:
        version = next(asked.version for asked in SPEC.terms if asked.id == term)
        return events.Reward(
            group=group,
            index=index,
            term_id=term,
            verifier=term,
            version=version,
            status=events.Status.SCORED,
            components=components,
            queued_seconds=0.0,
            score_seconds=0.0,
            created_ns=self.now_ns(),
        )

    def conclude(self, outcome: Outcome) -> None:
        self.run.add(OUTCOMES, outcome, epoch=self.epoch)
        if outcome.fate is Fate.DROPPED:
            self.dropped.add(outcome.group.number)
            self.settled.add(outcome.group.number)

    def outcome(self, group: Group, worths: tuple[events.RolloutOutcome, ...], version: int, **fields: Any) -> Outcome:
        rewards = [worth.reward for worth in worths if worth.valid]
        return Outcome(
            group=group,
            rollouts=worths,
            oldest_version=version,
            has_zero_variance=has_zero_variance(rewards),
            created_ns=self.now_ns(),
            **fields,
        )

    def drop(self, reason: DropReason, version: int) -> None:
        """Dispatch a group that is dropped."""
        number = self.next_number()
        group = training_group(number, self.source(number))
        self.dispatch(group)
        if reason is DropReason.CONFLICTING:
            self.dispatch(replace(group, sample_id="another"))
        accuracies = {DropReason.ZERO_VARIANCE: [1.0] * 4, DropReason.INCOMPLETE: [1.0, 0.0]}
        worths = self.answer(group, version, accuracies.get(reason, [1.0, 0.0, 0.0, 1.0]))
        if reason is DropReason.TOO_FEW_VALID:
            self.fail_scores(group, range(1, GROUP_SIZE))
            worths = (worths[0], *(replace(worth, valid=False, reward=0.0) for worth in worths[1:]))
        self.conclude(self.outcome(group, worths, version, fate=Fate.DROPPED, drop_reason=reason))

    def fail_scores(self, group: Group, indexes: Iterable[int]) -> None:
        self.run.change(
            REWARDS,
            lambda reward: reward.group == group and reward.index in indexes and reward.term_id == "math",
            status=events.Status.TIMEOUT,
            components={},
        )

    def go_back(self) -> None:
        """The learner starts again from its checkpoint: what it trained since then it has not trained."""
        for number in [n for step, batch in self.batches.items() if step > self.durable.step for n in numbers(batch)]:
            self.settled = without(self.settled, number)
        self.pending = []
        self.contents = {version: life for version, life in self.contents.items() if version <= self.durable.step}
        self.step, self.life = self.durable.step, self.life + 1

    def begin_anew(self) -> None:
        """Everything starts again from the checkpoint on a new log: what it does not settle was never dispatched."""
        self.go_back()
        self.settled = IntervalSet(self.durable.settled)
        self.dropped = IntervalSet.of(number for number in self.dropped if number in self.settled)
        self.number = self.settled.first_missing()
        self.batches = {step: batch for step, batch in self.batches.items() if step <= self.step}
        self.run.logs.append([])
        self.take_over()
        self.announce()

    def train_step(self) -> None:
        """Train the groups of the next step; their outcomes wait for a checkpoint."""
        self.step += 1
        outcomes = self.batches.get(self.step) or self.make_batch()
        self.batches[self.step] = outcomes
        for outcome in outcomes:
            self.settled.add(outcome.group.number)
        self.pending += outcomes
        self.announce()
        self.report(outcomes)

    def make_batch(self) -> list[Outcome]:
        """Dispatch, answer and score the groups of this step."""
        outcomes = []
        for place in range(GROUPS_PER_STEP):
            number = self.next_number()
            group, version = training_group(number, self.source(number)), max(0, self.step - 1 - place % 2)
            self.dispatch(group)
            worths = self.answer(group, version, [1.0, 0.0, 0.5, number % 2])
            age = self.step - 1 - version
            worths = tuple(replace(worth, advantage=worth.reward - 0.5, age=age) for worth in worths)
            outcomes.append(self.outcome(group, worths, version, fate=Fate.TRAINED, step=self.step))
        return outcomes

    def report(self, outcomes: Iterable[Outcome]) -> None:
        """Say what this step did."""
        report = events.StepReport(
            run=RUN,
            step=self.step,
            total_steps=NUM_STEPS,
            metrics={"loss": 0.5},
            layer_grad_norms={},
            phase_seconds={},
            rollouts=(),
            outcomes=tuple(outcomes),
            num_completion_tokens=2 * GROUP_SIZE * GROUPS_PER_STEP,
            created_ns=self.now_ns(),
        )
        self.run.add(STEPS, report, epoch=self.epoch)

    @property
    def ledger(self) -> Ledger:
        return Ledger(
            step=self.step,
            settled=self.settled.intervals,
            num_dropped=len(self.dropped),
            dropped_checksum=number_checksum(self.dropped),
            epoch=self.epoch,
        )

    def checkpoint(self, *, is_acknowledged: bool = True) -> None:
        """Make the steps so far durable, and publish the outcomes of their groups."""
        self.durable = self.ledger
        self.run.commit = Commit(ledger=self.durable)
        self.announce()
        for outcome in self.pending if is_acknowledged else ():
            self.conclude(outcome)
        self.pending = []

    def announce(self) -> None:
        policy = events.PolicyVersion(
            run=RUN,
            weights=self.weights(self.step),
            total_steps=NUM_STEPS,
            durable=self.durable,
            created_ns=self.now_ns(),
        )
        self.run.add(POLICY, policy, epoch=self.epoch)

    def weights(self, version: int, content: str = "") -> events.Weights:
        """Weights of a version in the store."""
        data = f"weights of version {version} {content or self.contents.setdefault(version, self.life)}".encode()
        sha256 = hashlib.sha256(data).hexdigest()
        path = self.run.folder.store / f"weights/{version}/1-{sha256[:16]}.safetensors"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        return events.Weights(version=version, uri=str(path.absolute()), sha256=sha256)

    def evaluate(self, version: int, attempt: int = 0) -> None:
        """Answer the held-out rows with the weights of a version."""
        for number in range(NUM_HELD_OUT):
            group = held_out_group(number, version, attempt)
            self.dispatch(group, self.weights(version))
            worths = self.answer(group, version, [1.0])
            self.conclude(self.outcome(group, worths, version, fate=Fate.EVALUATED, step=version))


def training_group(number: int, source: str) -> Group:
    return Group(run=RUN, split=Split.TRAIN, number=number, source=source, sample_id=str(number), size=GROUP_SIZE)


def held_out_group(number: int, version: int, attempt: int = 0) -> Group:
    return Group(
        run=RUN,
        split=Split.EVAL,
        number=number,
        source="words",
        sample_id=str(number),
        size=1,
        eval_step=version,
        eval_attempt=attempt,
    )


def numbers(outcomes: Iterable[Outcome]) -> list[int]:
    return [outcome.group.number for outcome in outcomes]


def without(numbers: IntervalSet, gone: int) -> IntervalSet:
    return IntervalSet.of(number for number in numbers if number != gone)


def digest_of(group: Group) -> str:
    return hashlib.sha256(f"{group.id} {group.sample_id}".encode()).hexdigest()


def honest_run(folder: Path, *, clock_ns: Callable[[int], int] = lambda tick: tick) -> RecordedRun:
    """A run that kept every promise."""
    run = RecordedRun(folder=RunFolder(folder / RUN))
    play = Play(run, clock_ns=clock_ns)
    play.begin()
    play.train_step()
    play.drop(DropReason.ZERO_VARIANCE, 0)
    play.train_step()
    play.command(CommandKind.PAUSE_SOURCE, PAUSED.start)
    play.checkpoint()
    play.evaluate(2)
    play.drop(DropReason.INCOMPLETE, 1)
    play.command(CommandKind.RESUME_SOURCE, PAUSED.stop)
    play.train_step()
    play.drop(DropReason.TOO_FEW_VALID, 2)
    play.take_over()
    play.drop(DropReason.STALE, 0)
    play.train_step()
    play.checkpoint()
    play.evaluate(4)
    play.drop(DropReason.CONFLICTING, 3)
    play.train_step()
    play.checkpoint()
    play.evaluate(5)
    return run

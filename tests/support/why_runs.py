"""Runs in which one thing, or two, change at a step, as events of the wire; real verifiers score made-up answers.

Everything else wobbles as it does in real runs: the policy learns and walks, samples are harder or easier and come
again every ten steps, answers are cut off, verifiers time out, a producer is replaced, the mix of sources varies.
"""

import json
import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from tristream.assembler.rewards import final_reward, has_zero_variance
from tristream.runtime.bus.memory import MemoryBus
from tristream.verifiers.contract import Rollout, Score
from tristream.verifiers.definition import VerifierDefinition
from tristream.verifiers.scorers.detection import parse_true_boxes, score_detection
from tristream.verifiers.scorers.number import parse_number, score_number
from tristream.wire import events, topics
from tristream.wire.arrays import LogProbs, Tokens

SECOND_NS = 10**9
STEP = 25
"""The step at which things change."""
SIDE = 8
"""Steps before and after it that are compared."""
NUM_STEPS = STEP + SIDE - 1
GROUP_SIZE = 6
SOURCES = ("sums", "counts", "find")
VERIFIERS = {"sums": "number", "counts": "number", "find": "detection"}
BOXED = {"answer_in": "boxed"}
"""Parameters of the stricter number@2: the number must be in a box."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One row of the data."""

    id: str
    difficulty: float
    truth: str
    shown: str
    """What a right answer says, whatever the truth in the data is."""
    num_prompt_tokens: int


@dataclass(slots=True, kw_only=True)
class World:
    """How things are at a step; a scenario changes some of it from ``STEP`` on."""

    skill: dict[str, float]
    mix: dict[str, int] = field(default_factory=lambda: dict.fromkeys(SOURCES, 4))
    """Groups a step."""
    max_tokens: int = 200
    length: float = 4.35
    """Mean of the logarithm of the tokens."""
    box_share: float = 0.7
    """Share of answers that put the number into a box."""
    timeouts: dict[str, float] = field(default_factory=lambda: dict.fromkeys(SOURCES, 0.01))
    on_unscored: events.OnUnscored = events.OnUnscored.ZERO
    ages: Sequence[int] = (0, 0, 0, 1, 1, 2)
    producers: Sequence[str] = ("producer-1", "producer-2", "producer-3")
    weak_producer: str = ""
    total_steps: int = 400
    number_version: str = "1"
    has_shadow: bool = False
    format_weight: float = 0.1
    learning_rate: float = 1e-6
    entropy: float = 0.8
    grad_norm: float = 0.5
    bad_truth_share: dict[str, float] = field(default_factory=dict)
    new_share: dict[str, float] = field(default_factory=dict)
    """Share of groups whose sample was never seen, and has a wrong truth."""
    hard_only: str = ""
    skipped: bool = False
    failures: float = 0.004


Scenario = Callable[[World, int], None]
"""Changes the world at a step."""


@dataclass
class ConstructedRun:
    """Publishes a run whose world a scenario changes."""

    bus: MemoryBus
    seed: int
    scenarios: Sequence[Scenario]
    slope: float = 0.02
    """Logits that the policy gains a step."""

    def __post_init__(self) -> None:
        self.draw = random.Random(self.seed)
        self.samples = {source: [self._sample(source, str(n)) for n in range(40)] for source in SOURCES}
        self.orders: dict[str, list[Sample]] = {source: [] for source in SOURCES}
        self.skills: list[dict[str, float]] = []
        self.number = 0
        self.created_ns = 1_790_000_000 * SECOND_NS
        self.distractors = self.draw.sample(DISTRACTORS, 2)

    def publish(self) -> None:
        """Publish all events, in the order of time."""
        walk = {source: self.draw.uniform(-0.2, 0.4) for source in SOURCES}
        for step in range(1, NUM_STEPS + 1):
            walk = {source: value + self.draw.gauss(self.slope, 0.04) for source, value in walk.items()}
            world = self._world(step, dict(walk))
            self.skills.append(world.skill)
            outcomes = [
                outcome
                for source in SOURCES
                for _ in range(max(1, world.mix[source] + self.draw.choice((-1, 0, 0, 1))))
                for outcome in [self._group(source, step, world)]
                if outcome.fate is events.Fate.TRAINED
            ]
            self.created_ns += SECOND_NS
            self.bus.publish(topics.STEPS, self._report(step, world, outcomes))

    def _world(self, step: int, skill: dict[str, float]) -> World:
        cosine = 1e-6 * (0.55 + 0.45 * math.cos(math.pi * step / 60))
        world = World(skill=skill, learning_rate=cosine, entropy=0.85 - 0.006 * step)
        world.producers = ("producer-1", "producer-2", "producer-3" if step < STEP - 3 else "producer-4")
        if step >= STEP:
            for distractor in self.distractors:
                distractor(world, step)
        for scenario in self.scenarios:
            scenario(world, step)
        return world

    def _sample(self, source: str, name: str) -> Sample:
        draw = self.draw
        truth = str(draw.randint(3, 99))
        if source == "find":
            boxes = []
            for _ in range(draw.randint(1, 3)):
                left, top = draw.randint(0, 600), draw.randint(0, 600)
                boxes.append([left, top, left + draw.randint(120, 380), top + draw.randint(120, 380)])
            truth = _write_boxes(boxes)
        return Sample(
            id=f"{source}-{name}", difficulty=draw.gauss(0.0, 1.0), truth=truth, shown=truth,
            num_prompt_tokens=draw.randint(30, 60),
        )  # fmt: skip

    def _next_sample(self, source: str, step: int, world: World) -> Sample:
        draw = self.draw
        if draw.random() < world.new_share.get(source, 0.0):
            return self._spoil(self._sample(source, f"new-{self.number}"))
        if not self.orders[source]:
            self.orders[source] = draw.sample(self.samples[source], len(self.samples[source]))
        sample = self.orders[source].pop()
        hard = sorted(one.difficulty for one in self.samples[source])[28]
        while world.hard_only == source and sample.difficulty < hard:
            sample = draw.choice(self.samples[source])
        # The same samples are spoilt every time: by their name, not by chance.
        is_spoilt = random.Random(f"{self.seed} {sample.id}").random() < world.bad_truth_share.get(source, 0.0)
        return self._spoil(sample) if is_spoilt else sample

    @staticmethod
    def _spoil(sample: Sample) -> Sample:
        if "<answer>" in sample.truth:
            return replace(sample, truth=_write_boxes([[900, 900, 990, 990]]))
        return replace(sample, truth=str(int(sample.truth) + 7))

    def _group(self, source: str, step: int, world: World) -> events.Outcome:
        sample = self._next_sample(source, step, world)
        group = events.Group(
            run=self.bus.run, split=events.Split.TRAIN, number=self.number, source=source, sample_id=sample.id,
            size=GROUP_SIZE,
        )  # fmt: skip
        self.number += 1
        age = min(step - 1, self.draw.choice(world.ages))
        progress = events.Progress(step=step - age, total_steps=world.total_steps)
        spec = self._spec(source, sample, world)
        self.created_ns += SECOND_NS // 100
        self.bus.publish(topics.PROMPTS, self._prompt(group, sample, spec, progress, world))
        rewards = [self._rollout(group, index, sample, spec, progress, world, step - 1 - age)
                   for index in range(GROUP_SIZE)]  # fmt: skip
        known = [reward for reward in rewards if reward is not None]
        reason = None
        if len(known) < 2:
            reason = events.DropReason.TOO_FEW_VALID
        elif has_zero_variance(known):
            reason = events.DropReason.ZERO_VARIANCE
        elif self.draw.random() < 0.01:
            reason = events.DropReason.STALE
        mean = sum(known) / len(known) if known else 0.0
        self.created_ns += SECOND_NS // 100
        outcome = events.Outcome(
            group=group, fate=events.Fate.DROPPED if reason else events.Fate.TRAINED, step=0 if reason else step,
            drop_reason=reason, has_zero_variance=bool(known) and has_zero_variance(known),
            oldest_version=step - 1 - age, created_ns=self.created_ns,
            rollouts=tuple(
                events.RolloutOutcome(index=index, valid=reward is not None, reward=reward or 0.0,
                                      advantage=0.0 if reason or reward is None else reward - mean,
                                      age=0 if reason else age)
                for index, reward in enumerate(rewards)
            ),
        )  # fmt: skip
        if reason:
            self.bus.publish(topics.OUTCOMES, outcome)
        return outcome

    def _prompt(
        self, group: events.Group, sample: Sample, spec: events.RewardSpec, progress: events.Progress, world: World
    ) -> events.Prompt:
        return events.Prompt(
            group=group, messages=(events.Message(role="user", content=f"What is in {sample.id}?"),), images=(),
            reward=spec, progress=progress, created_ns=self.created_ns, run_fingerprint="f",
            sampling=events.Sampling(temperature=1.0, top_p=1.0, max_tokens=world.max_tokens, seed=1),
        )  # fmt: skip

    @staticmethod
    def _spec(source: str, sample: Sample, world: World) -> events.RewardSpec:
        name = VERIFIERS[source]
        version = world.number_version if name == "number" else "2"
        weights = {"accuracy": 1.0, "format": world.format_weight}
        terms = [events.RewardTerm(id=name, verifier=name, version=version, weights=weights)]
        if world.has_shadow and name == "number":
            terms.append(events.RewardTerm(id="number+", verifier=name, version="2", weights={},
                                           mode=events.TermMode.SHADOW))  # fmt: skip
        return events.RewardSpec(terms=tuple(terms), ground_truth=sample.truth, on_unscored=world.on_unscored)

    def _rollout(
        self, group: events.Group, index: int, sample: Sample, spec: events.RewardSpec, progress: events.Progress,
        world: World, version: int,
    ) -> float | None:  # fmt: skip
        draw, source = self.draw, group.source
        producer = draw.choice(world.producers)
        if draw.random() < world.failures:
            failed = self._make_rollout(
                group, index, sample, spec, progress, (), "", events.FinishReason.ERROR, producer
            )
            self.bus.publish(topics.ROLLOUTS, failed)
            return None
        skill = self.skills[version - 1][source] if version >= 1 else world.skill[source]
        skill = min(skill, world.skill[source]) - (2.5 if producer == world.weak_producer else 0.0)
        chance = 1 / (1 + math.exp(sample.difficulty - skill - draw.gauss(0, 0.3)))
        num_tokens = max(4, int(math.exp(draw.gauss(world.length + 0.06 * sample.difficulty, 0.45))))
        is_cut = num_tokens >= world.max_tokens
        num_tokens = min(num_tokens, world.max_tokens)
        text = "Let me think." if is_cut else self._answer(source, sample, chance, world)
        spans = (events.VersionSpan(version=version, start=0, end=num_tokens),)
        answer = events.sampled(Tokens.of([2] * num_tokens), LogProbs.of([-0.5] * num_tokens), spans)
        reason = events.FinishReason.LENGTH if is_cut else events.FinishReason.STOP
        segments = (events.given(Tokens.of([1] * sample.num_prompt_tokens)), answer)
        rollout = self._make_rollout(group, index, sample, spec, progress, segments, text, reason, producer)
        self.bus.publish(topics.ROLLOUTS, rollout)
        return self._judge(rollout, world)

    def _make_rollout(
        self, group: events.Group, index: int, sample: Sample, spec: events.RewardSpec, progress: events.Progress,
        segments: tuple[events.Segment, ...], text: str, reason: events.FinishReason, producer: str,
    ) -> events.Rollout:  # fmt: skip
        return events.Rollout(
            group=group, index=index, segments=segments, text=text, finish_reason=reason,
            prompt_text=f"What is in {sample.id}?", reward=spec, progress=progress, temperature=1.0,
            queued_seconds=0.1, generate_seconds=1.0, producer=producer, created_ns=self.created_ns,
            error="the engine was lost" if reason is events.FinishReason.ERROR else "",
        )  # fmt: skip

    def _answer(self, source: str, sample: Sample, chance: float, world: World) -> str:
        draw = self.draw
        if source == "find":
            boxes = _read_boxes(sample.shown)
            scale = 18 * (1 - chance) ** 1.5
            if draw.random() > chance + 0.35:
                boxes = boxes[:-1] or [[1, 1, 50, 50]]
            return "I look.\n" + _write_boxes(
                [[round(side + draw.gauss(0, scale), 1) for side in box] for box in boxes]
            )
        value = sample.shown if draw.random() < chance else str(draw.randint(100, 199))
        return f"It is \\boxed{{{value}}}" if draw.random() < world.box_share else f"It is {value}"

    def _judge(self, rollout: events.Rollout, world: World) -> float | None:
        """Publish what each verifier says; the final reward is the assembler's."""
        is_lost = self.draw.random() < world.timeouts[rollout.group.source]
        components: dict[str, Any] = {}
        for term in rollout.reward.terms:
            is_counted = term.mode is events.TermMode.ACTIVE
            values: dict[str, Any] = {"status": events.Status.TIMEOUT, "detail": "1 s of CPU time are used up"}
            if not (is_lost and is_counted):
                score = _score(rollout, term)
                values = {"status": events.Status.SCORED, "components": score.components, "metrics": score.metrics,
                          "params_json": json.dumps(dict(score.params_used))}  # fmt: skip
            self.bus.publish(topics.REWARDS, events.Reward(
                group=rollout.group, index=rollout.index, term_id=term.id, verifier=term.verifier, version=term.version,
                mode=term.mode, queued_seconds=0.01, score_seconds=0.01, created_ns=self.created_ns, **values,
            ))  # fmt: skip
            if "components" in values:
                components[term.id] = values["components"]
        return final_reward(rollout.reward, components)

    def _report(self, step: int, world: World, outcomes: Sequence[events.Outcome]) -> events.StepReport:
        draw = self.draw
        metrics = {
            "learning_rate": world.learning_rate, "grad_norm": world.grad_norm * math.exp(draw.gauss(0, 0.25)),
            "entropy": world.entropy * math.exp(draw.gauss(0, 0.03)), "kl_k1": 0.002 * math.exp(draw.gauss(0, 0.3)),
            "skipped_updates": float(world.skipped), "loss": draw.gauss(0, 0.02),
        }  # fmt: skip
        statistics = [
            events.RolloutStatistics(group_number=outcome.group.number, index=rollout.index, mean_logprob=-0.5,
                                     mean_entropy=world.entropy, clip_fraction=0.01, mean_kl=0.002)
            for outcome in outcomes for rollout in outcome.rollouts if rollout.valid
        ]  # fmt: skip
        return events.StepReport(
            run=self.bus.run, step=step, total_steps=world.total_steps, metrics=metrics, layer_grad_norms={},
            phase_seconds={}, rollouts=tuple(statistics), outcomes=tuple(outcomes), num_completion_tokens=1000,
            created_ns=self.created_ns,
        )  # fmt: skip


def _score(rollout: events.Rollout, term: events.RewardTerm) -> Score:
    progress = rollout.progress
    asked = Rollout(text=rollout.text, ground_truth=rollout.reward.ground_truth, step=progress.step,
                    total_steps=progress.total_steps)  # fmt: skip
    definition: VerifierDefinition = score_detection if term.verifier == "detection" else score_number
    parse: Callable[[str], Any] = parse_true_boxes if term.verifier == "detection" else parse_number
    params = BOXED if (term.verifier, term.version) == ("number", "2") else {}
    score = definition(replace(asked, truth=parse(asked.ground_truth)), **params)
    assert isinstance(score, Score)
    return score


def _write_boxes(boxes: Sequence[Sequence[float]]) -> str:
    items = ", ".join(f'{{"bbox_2d": [{", ".join(map(str, box))}], "label": "cat"}}' for box in boxes)
    return f"<answer>\n[{items}]\n</answer>"


def _read_boxes(text: str) -> list[list[float]]:
    return [item["bbox_2d"] for item in json.loads(text.removeprefix("<answer>\n").removesuffix("\n</answer>"))]


def _from_step(change: Callable[[World, int], None]) -> Scenario:
    def scenario(world: World, step: int) -> None:
        if step >= STEP:
            change(world, step)

    return scenario


def _lower(world: World, by: float) -> None:
    world.skill = {source: value - by for source, value in world.skill.items()}


def _set(**values: Any) -> Scenario:
    def change(world: World, _step: int) -> None:
        for name, value in values.items():
            setattr(world, name, value)

    return _from_step(change)


def _threshold(world: World, _step: int) -> None:
    world.total_steps = 96  # 24 steps are a quarter: 0.95 up to there, then 0.99


def _later_threshold(world: World, _step: int) -> None:
    world.total_steps = 240  # 24 steps are a tenth: 0.85 up to there, then 0.95


def _promotion(world: World, step: int) -> None:
    world.has_shadow = step < STEP
    world.number_version = "1" if step < STEP else "2"


def _rate_spike(world: World, step: int) -> None:
    if STEP - 1 <= step <= STEP + 1:
        world.learning_rate *= 12
        world.grad_norm *= 3
    if step >= STEP:
        _lower(world, 1.1)
        world.length += 0.25
        world.entropy *= 1.3


def _stale(world: World, step: int) -> None:
    world.ages = (4, 5, 5, 6, 6, 7)
    _lower(world, 0.12 * (step - STEP + 3))


def _entropy_collapse(world: World, _step: int) -> None:
    world.entropy *= 0.35
    world.length -= 0.1
    _lower(world, 1.0)


SCENARIOS: dict[str, Sequence[Scenario]] = {
    "threshold 0.95 -> 0.99": (_threshold,),
    "threshold 0.85 -> 0.95": (_later_threshold,),
    "verifier": (_promotion,),
    "weights": (_set(format_weight=1.0),),
    "mix": (lambda world, step: world.mix.update({"sums": 1, "counts": 2, "find": 9}) if step >= STEP else None,),
    "truncation": (_set(max_tokens=80),),
    "outage": (_from_step(lambda world, _step: world.timeouts.update({"counts": 0.4})),),
    "coverage": (
        lambda world, _step: setattr(world, "on_unscored", events.OnUnscored.LEAVE_OUT),
        _from_step(lambda world, _step: world.timeouts.update({"counts": 0.6})),
    ),
    "staleness": (_from_step(_stale),),
    "learning_rate": (_rate_spike,),
    "data: truths": (_from_step(lambda world, _step: world.bad_truth_share.update({"sums": 0.5})),),
    "data: new samples": (_from_step(lambda world, _step: world.new_share.update({"sums": 0.45})),),
    "samples": (_set(hard_only="counts"),),
    "producers": (
        _set(producers=("producer-1", "producer-2", "producer-9"), weak_producer="producer-9"),
    ),
    "entropy": (_from_step(_entropy_collapse),),
}  # fmt: skip
"""What is injected, by the kind of the cause that must be named first."""


def _wobble(name: str, factor: float) -> Scenario:
    return lambda world, _step: setattr(world, name, getattr(world, name) * factor)


DISTRACTORS: Sequence[Scenario] = (
    lambda world, _step: setattr(world, "max_tokens", 190),
    lambda world, _step: world.timeouts.update(dict.fromkeys(SOURCES, 0.02)),
    lambda world, _step: setattr(world, "ages", (0, 0, 1, 1, 1, 2)),
    lambda world, _step: world.mix.update({"counts": 5}),
    _wobble("entropy", 0.96),
    _wobble("grad_norm", 1.15),
    _wobble("length", 1.005),
    lambda world, _step: setattr(world, "box_share", 0.72),
)  # fmt: skip

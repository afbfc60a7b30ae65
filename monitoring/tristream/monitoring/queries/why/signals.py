"""What the learner's own numbers say about why a policy changed: learning rate, gradients, entropy, old data.

What changes a policy comes first: a learning rate, skipped updates, stale rollouts. What a changed policy shows, such
as its entropy, is named only where nothing of the former is seen. They are told by their time: they shift at the step.
"""

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean

from tristream.monitoring.queries.why.facts import Answer, StepFacts, Surroundings
from tristream.monitoring.queries.why.series import Point, find_shift

SHIFT_ERRORS = 6.0
"""A series has shifted if it is off its trend by so many standard errors."""
RATE_JUMP = 1.8
"""A learning rate so many times that of the step before, and beyond all before, is a spike: warm-ups are slower."""
NORM_FACTOR, ENTROPY_FACTOR = 1.8, 1.4
LEAST_AGES = 0.75
"""Policy versions by which the mean age must rise."""
LEAST_SKIPPED = 0.2
"""Share of updates that must be skipped."""
FEW_STEPS_BEFORE = 2
"""A spike so many steps before the step that is asked about shows in rollouts from it on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Signal:
    """Something that happened to the learner at the step."""

    kind: str
    title: str
    detail: str
    is_driver: bool
    """Whether it changes a policy, and is not what a changed policy shows."""
    strength: float


def find_signals(surroundings: Surroundings) -> list[Signal]:
    """The signals around the step, drivers first, the strongest first."""
    found = [
        _learning_rate(surroundings),
        _staleness(surroundings.answers, surroundings),
        _skipped_updates(surroundings),
        _shifted(surroundings, "grad_norm", "gradient_norm", "gradient norm", NORM_FACTOR),
        _shifted(surroundings, "entropy", "entropy", "entropy", ENTROPY_FACTOR),
        _shifted(surroundings, "kl_k1", "divergence", "KL to the sampling policy", NORM_FACTOR),
    ]
    signals = [signal for signal in found if signal is not None]
    return sorted(signals, key=lambda signal: (not signal.is_driver, -signal.strength))


def _values(steps: Sequence[StepFacts], name: str) -> list[Point]:
    return [(facts.step, facts.metrics[name]) for facts in steps if math.isfinite(facts.metrics.get(name, math.nan))]


def _learning_rate(surroundings: Surroundings) -> Signal | None:
    rates = [point for point in _values(surroundings.steps, "learning_rate") if point[1] > 0]
    first = surroundings.window.step - FEW_STEPS_BEFORE
    before = [rate for step, rate in rates if step < first]
    if not before:
        return None
    jumps = [
        (rate / last, step, rate)
        for (_, last), (step, rate) in pairwise(rates)
        if step >= first and rate > last and rate > max(before)
    ]
    ratio, step, rate = max(jumps, default=(0.0, 0, 0.0))
    if ratio < RATE_JUMP:
        return None
    return Signal(
        kind="learning_rate", title="learning rate", is_driver=True, strength=math.log(ratio) * SHIFT_ERRORS,
        detail=f"{before[-1]:.2g} before, {rate:.2g} at step {step}",
    )  # fmt: skip


def _skipped_updates(surroundings: Surroundings) -> Signal | None:
    values = _values(surroundings.steps, "skipped_updates")
    first = surroundings.window.step - FEW_STEPS_BEFORE
    before = [min(1.0, value) for step, value in values if step < first]
    after = [min(1.0, value) for step, value in values if step >= first]
    if not before or not after or fmean(after) - fmean(before) < LEAST_SKIPPED:
        return None
    return Signal(
        kind="skipped_updates", title="skipped updates", is_driver=True, strength=SHIFT_ERRORS * 5 * fmean(after),
        detail=f"{fmean(before):.0%} of the steps before, {fmean(after):.0%} after had updates left out",
    )  # fmt: skip


def _staleness(answers: Sequence[Answer], surroundings: Surroundings) -> Signal | None:
    ages: dict[int, list[int]] = defaultdict(list)
    for answer in answers:
        ages[answer.step].append(answer.age)
    points = [(step, fmean(values)) for step, values in sorted(ages.items())]
    step = surroundings.window.step
    before = [age for at, age in points if at < step]
    after = [age for at, age in points if at >= step]
    shift = find_shift(points, step)
    if shift is None or shift.z < SHIFT_ERRORS or fmean(after) - fmean(before) < LEAST_AGES:
        return None
    return Signal(
        kind="staleness", title="stale rollouts", is_driver=True, strength=min(shift.z, 50.0),
        detail=f"mean age {fmean(before):.1f} before, {fmean(after):.1f} policy versions after",
    )  # fmt: skip


def _shifted(surroundings: Surroundings, name: str, kind: str, title: str, factor: float) -> Signal | None:
    """A positive number that is off its trend, by its logarithm."""
    points = [(step, math.log(value)) for step, value in _values(surroundings.steps, name) if value > 0]
    step = surroundings.window.step
    shift = find_shift(points, step)
    if shift is None or abs(shift.z) < SHIFT_ERRORS or abs(shift.size) < math.log(factor):
        return None
    before = fmean(value for at, value in points if surroundings.window.first <= at < step)
    after = fmean(value for at, value in points if at >= step)
    return Signal(
        kind=kind, title=title, is_driver=False, strength=min(abs(shift.z), 50.0),
        detail=f"{math.exp(before):.2g} before, {math.exp(after):.2g} after",
    )  # fmt: skip

"""What changed in one source: each cause with what it did, what it did it by, and what is left for the policy."""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np

from tristream.monitoring.queries.why.decomposition import RESIDUAL, Sample, decompose
from tristream.monitoring.queries.why.explanation import Change
from tristream.monitoring.queries.why.facts import Answer, Group, Surroundings
from tristream.monitoring.queries.why.features import know_samples, make_features
from tristream.monitoring.queries.why.rulers import measure_rulers
from tristream.monitoring.queries.why.series import Drift, find_drift
from tristream.monitoring.queries.why.source_facts import Fact, Halves, find_facts

LEAST_GROUPS = 3
"""Groups on each side with which causes can be told apart."""
EFFECT_ERRORS = 3.0
"""An effect stands out by so many standard errors, where its fact is seen too."""
LEAST_EFFECT = 0.01
USUAL_SLOPE = 0.004
"""Reward that runs usually gain or lose a step."""
NO_FACT = Fact(detail="", is_seen=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Effect:
    """What one cause did to the mean reward of a source."""

    kind: str
    delta: float
    error: float
    fact: Fact

    @property
    def is_sure(self) -> bool:
        """Whether it is beyond noise, and its fact is seen."""
        return self.fact.is_seen and is_beyond_noise(self.delta, self.error, EFFECT_ERRORS, LEAST_EFFECT)


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceFinding:
    """One source around a step."""

    source: str
    change: Change
    effects: Sequence[Effect]
    left: float
    """What no cause explains."""
    drift: float
    """How much of it the trend before the step goes on for."""
    left_error: float
    """Standard error of what is left beyond the drift."""


def is_beyond_noise(delta: float, error: float, errors: float, least: float) -> bool:
    """Whether an effect is at least ``least`` and so many standard errors."""
    return abs(delta) >= least and abs(delta) >= errors * error


def examine_source(surroundings: Surroundings, source: str) -> SourceFinding | None:
    """What changed in a source; None if nothing of it was judged on one side."""
    window = surroundings.window
    groups = [group for group in surroundings.groups if group.source == source and window.holds(group.step)]
    sides = [[group for group in groups if window.is_after(group.step) is after] for after in (False, True)]
    change = describe_change(surroundings, groups)
    if change is None:
        return None
    answers = [answer for answer in surroundings.answers if answer.source == source]
    effects = _effects(surroundings, source, answers, sides)
    named = [effect for effect in effects if effect.kind != RESIDUAL]
    drift, drift_error = _expected(surroundings, source)
    residual = next((effect.error for effect in effects if effect.kind == RESIDUAL), change.error)
    return SourceFinding(
        source=source,
        change=change,
        effects=named,
        left=change.delta - sum(effect.delta for effect in named),
        drift=drift,
        left_error=math.hypot(residual, drift_error),
    )


def describe_change(surroundings: Surroundings, groups: Sequence[Group]) -> Change | None:
    """The training reward before and after, of the window's groups; None if there is none on one side."""
    window = surroundings.window
    sides = [[g for g in groups if g.rewards and window.is_after(g.step) is after] for after in (False, True)]
    if not all(sides):
        return None
    means, errors = zip(*(_mean_of_groups(side) for side in sides), strict=True)
    steps = sorted(facts.step for facts in surroundings.steps if window.holds(facts.step))
    inside = [step for step in steps if step < window.step], [step for step in steps if step >= window.step]
    return Change(
        before=means[0], after=means[1], delta=means[1] - means[0], error=math.hypot(*errors),
        steps_before=(inside[0][0], inside[0][-1]), steps_after=(inside[1][0], inside[1][-1]),
    )  # fmt: skip


def _mean_of_groups(groups: Sequence[Group]) -> tuple[float, float]:
    """The mean over all rollouts, and its standard error by groups."""
    total = sum(len(group.rewards) for group in groups)
    mean = sum(sum(group.rewards) for group in groups) / total
    return mean, math.sqrt(sum((sum(g.rewards) - len(g.rewards) * mean) ** 2 for g in groups)) / total


def _effects(
    surroundings: Surroundings, source: str, answers: Sequence[Answer], sides: Sequence[Sequence[Group]]
) -> list[Effect]:
    halves = Halves(
        before=[answer for answer in answers if not answer.is_after],
        after=[answer for answer in answers if answer.is_after],
        groups_before=sides[0], groups_after=sides[1], samples=know_samples(surroundings, source),
    )  # fmt: skip
    if min(len({answer.number for answer in half}) for half in (halves.before, halves.after)) < LEAST_GROUPS:
        return []
    made = [[answer for answer in half if not answer.has_failed] for half in (halves.before, halves.after)]
    if not all(any(answer.reward is not None for answer in half) for half in made):
        return []
    rulers = measure_rulers(*made)
    facts = find_facts(halves, rulers)
    values, errors = _decompose([*made[0], *made[1]], rulers.rewards, halves)
    values, errors = {**rulers.effects, **values}, {**rulers.errors, **errors}
    return [
        Effect(kind=kind, delta=value, error=errors[kind], fact=facts.get(kind, NO_FACT))
        for kind, value in values.items()
    ]


def _decompose(
    answers: Sequence[Answer], rewards: Mapping[tuple[int, int], float], halves: Halves
) -> tuple[dict[str, float], dict[str, float]]:
    features = make_features(answers, halves.samples)
    sample = Sample(
        features=features.values,
        rewards=np.array([rewards.get(answer.key, np.nan) for answer in answers]),
        is_after=np.array([answer.is_after for answer in answers]),
        groups=np.array([answer.number for answer in answers], dtype=np.int64),
    )
    found = decompose(sample, features.causes)
    return dict(found.effects), dict(found.errors)


def _expected(surroundings: Surroundings, source: str) -> tuple[float, float]:
    """What the trend before the step makes of the difference, and its standard error.

    The slope is the mean of the posterior, given that slopes are normal about 0 with ``USUAL_SLOPE`` (Gelman et al.
    2013, Bayesian Data Analysis, section 2.5): few noisy steps say little of a trend. The error has two parts: that of
    the slope, and how far steps lie off the trend, since each step's policy is another one.
    """
    window = surroundings.window
    rewards: dict[int, list[float]] = defaultdict(list)
    for group in surroundings.groups:
        if group.source == source:
            rewards[group.step].extend(group.rewards)
    means = {step: fmean(values) for step, values in rewards.items() if values}
    before = [step for step in means if window.first <= step < window.step]
    after = [step for step in means if step >= window.step]
    drift: Drift | None = find_drift([(step, mean) for step, mean in sorted(means.items()) if step < window.step])
    if drift is None or not before or not after:
        return 0.0, 0.0
    distance = fmean(after) - fmean(before)
    steps = drift.spread * (1 / len(before) + 1 / len(after))
    trust = USUAL_SLOPE**2 / (USUAL_SLOPE**2 + drift.slope_error**2)
    slope_error = math.sqrt(trust) * drift.slope_error
    return distance * trust * drift.slope, math.sqrt((distance * slope_error) ** 2 + steps)

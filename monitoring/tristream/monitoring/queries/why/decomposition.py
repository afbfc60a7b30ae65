"""How much of a difference of two means each cause explains: the regression decomposition of Oaxaca and Blinder.

All answers, before and after, are in one regression ``y = a + b x + g after``, so that a coefficient is estimated where
the feature varies within a window, and the change of the policy stays in g. Then exactly

    mean(y after) - mean(y before) = sum over features b (mean(x after) - mean(x before)) + g

(Oaxaca 1973, Blinder 1973; pooled with an indicator of the group as in Jann 2008, The Blinder-Oaxaca decomposition,
Stata Journal 8(4), section 2.1.) Errors are those of a bootstrap over groups, within each window: answers of one prompt
are alike. They are of coefficients, given the features as they are: whether a feature shifted is asked apart.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tristream.monitoring.queries.why.features import Numbers

NUM_RESAMPLES = 200
RIDGE = 1e-3
"""Added to the diagonal, for each answer: features that hardly vary explain nothing rather than anything."""

Flags = NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """Answers of two windows."""

    features: Numbers
    """One row an answer."""
    rewards: Numbers
    """NaN for those without a reward, which were left out."""
    is_after: Flags
    groups: NDArray[np.int64]
    """Number of the group of each."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Decomposition:
    """What explains the difference of the means, with standard errors."""

    effects: Mapping[str, float]
    errors: Mapping[str, float]


SELECTION = "coverage"
"""Cause of answers that were left out, having no reward: how the others differ from all, by their features."""
RESIDUAL = "policy"
"""What no feature explains."""


def decompose(sample: Sample, causes: Sequence[str], seed: int = 0) -> Decomposition:
    """Share out the difference of the mean rewards after and before; ``causes`` has the cause of each feature."""
    sums = _GroupSums.of(sample)
    ones = np.ones((1, len(sums.is_after)))
    names = [*dict.fromkeys(causes), SELECTION, RESIDUAL]
    values = _effects(sums, ones, causes, names)[0]
    draws = _draw_groups(sums.is_after, np.random.default_rng(seed))
    errors = _effects(sums, draws, causes, names).std(axis=0, ddof=1)
    return Decomposition(
        effects=dict(zip(names, values.tolist(), strict=True)), errors=dict(zip(names, errors.tolist(), strict=True))
    )


@dataclass(frozen=True, slots=True)
class _GroupSums:
    """All that a regression needs, summed by group, so that a resample is a weighted sum of groups."""

    squares: Numbers
    """[groups, p, p]: of rows with a reward; a row is 1, the indicator, and the features."""
    products: Numbers
    """[groups, p]: with the reward."""
    scored: Numbers
    """[groups, p]: rows with a reward."""
    rows: Numbers
    """[groups, p]: all rows."""
    is_after: Flags

    @classmethod
    def of(cls, sample: Sample) -> "_GroupSums":
        has_reward = ~np.isnan(sample.rewards)
        rewards = np.where(has_reward, sample.rewards, 0.0)
        ones = np.ones((len(rewards), 1))
        rows = np.hstack([ones, sample.is_after[:, None].astype(np.float64), sample.features])
        scored = rows * has_reward[:, None]
        # A group is of one window; the sign keeps it so even if a number were in both.
        keys = sample.groups * 2 + sample.is_after
        unique, places = np.unique(keys, return_inverse=True)

        def summed(values: Numbers) -> Numbers:
            totals = np.zeros((len(unique), *values.shape[1:]))
            np.add.at(totals, places, values)
            return totals

        return cls(
            squares=summed(scored[:, :, None] * scored[:, None, :]),
            products=summed(scored * rewards[:, None]),
            scored=summed(scored),
            rows=summed(rows),
            is_after=(unique % 2).astype(np.bool_),
        )


def _draw_groups(is_after: Flags, random: np.random.Generator) -> Numbers:
    """How often each group is in each resample: [resamples, groups]."""
    draws = np.zeros((NUM_RESAMPLES, len(is_after)))
    for side in (False, True):
        places = np.flatnonzero(is_after == side)
        draws[:, places] = random.multinomial(len(places), [1 / len(places)] * len(places), size=NUM_RESAMPLES)
    return draws


def _effects(sums: _GroupSums, draws: Numbers, causes: Sequence[str], names: Sequence[str]) -> Numbers:
    """Effect of each cause in each resample: [resamples, causes]; only what a feature costs is drawn anew."""
    width = sums.rows.shape[1]
    squares = (draws @ sums.squares.reshape(len(sums.squares), -1)).reshape(-1, width, width)
    ridge = np.diag([0.0, 0.0, *[RIDGE] * (width - 2)])
    squares = squares + squares[:, :1, :1] * ridge + 1e-9 * np.eye(width)
    coefficients = np.linalg.solve(squares, (draws @ sums.products)[:, :, None])[:, :, 0]

    def moved(rows: Numbers) -> Numbers:
        sides = [rows[sums.is_after == side].sum(axis=0) for side in (False, True)]
        before, after = (totals / max(totals[0], 1.0) for totals in sides)
        return np.asarray(after - before)

    by_feature = coefficients[:, 2:] * moved(sums.rows)[2:]
    selected = coefficients[:, 2:] @ (moved(sums.scored) - moved(sums.rows))[2:]
    columns = {
        SELECTION: selected,
        RESIDUAL: coefficients[:, 1],
        **{name: by_feature[:, [cause == name for cause in causes]].sum(axis=1) for name in dict.fromkeys(causes)},
    }
    return np.stack([columns[name] for name in names], axis=1)

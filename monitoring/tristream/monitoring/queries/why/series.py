"""A series by step that may shift at one of them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

Point = tuple[int, float]
"""Step and value."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shift:
    """By how much a series is off its own trend from a step on."""

    size: float
    error: float

    @property
    def z(self) -> float:
        """Its size in standard errors."""
        return self.size / self.error if self.error else math.copysign(math.inf, self.size) if self.size else 0.0


def find_shift(points: Sequence[Point], step: int) -> Shift | None:
    """The shift c of ``y = a + b t + c [t >= step]`` by least squares; None with too few points to tell.

    That is the segmented regression of an interrupted time series (Wagner et al. 2002, J. Clin. Pharm. Ther. 27:299),
    with a change of level alone.
    """
    if sum(at < step for at, _ in points) < 3 or sum(at >= step for at, _ in points) < 1 or len(points) < 5:
        return None
    steps = np.array([at for at, _ in points], dtype=np.float64)
    values = np.array([value for _, value in points], dtype=np.float64)
    design = np.stack([np.ones_like(steps), steps - step, (steps >= step).astype(np.float64)], axis=1)
    inverse = np.linalg.pinv(design.T @ design)
    coefficients = inverse @ design.T @ values
    spread = float(((values - design @ coefficients) ** 2).sum()) / (len(points) - 3)
    return Shift(size=float(coefficients[2]), error=math.sqrt(max(0.0, spread * float(inverse[2, 2]))))


@dataclass(frozen=True, slots=True, kw_only=True)
class Drift:
    """How a series went on before a step, for each step, and how far its values lie off that line."""

    slope: float
    slope_error: float
    spread: float
    """Variance of the values about the line."""


def find_drift(points: Sequence[Point]) -> Drift | None:
    """A line through points by least squares; None with fewer than four."""
    if len(points) < 4:
        return None
    steps = np.array([at for at, _ in points], dtype=np.float64)
    values = np.array([value for _, value in points], dtype=np.float64)
    centred = steps - steps.mean()
    width = float((centred**2).sum())
    slope = float((centred * values).sum()) / width
    left = values - values.mean() - slope * centred
    spread = float((left**2).sum()) / (len(points) - 2)
    return Drift(slope=slope, slope_error=math.sqrt(spread / width), spread=spread)

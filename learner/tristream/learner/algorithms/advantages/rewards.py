"""What all advantages begin with: a group of finite rewards of a size that can be squared."""

import math
from collections.abc import Sequence

LARGEST_REWARD = 1e100
"""Rewards are cut to this on both sides, since the squares of greater ones leave the range of a float."""


def checked(rewards: Sequence[float]) -> list[float]:
    """Rewards within bounds.

    Raises:
        ValueError: fewer than two, of which neither has a baseline.
    """
    if len(rewards) < 2:
        raise ValueError(f"a group of {len(rewards)} has no baseline")
    return [min(LARGEST_REWARD, max(-LARGEST_REWARD, reward)) for reward in rewards]


def mean_of(rewards: Sequence[float]) -> float:
    """Arithmetic mean."""
    return math.fsum(rewards) / len(rewards)


def centred(rewards: Sequence[float], *, scale: float) -> tuple[float, ...]:
    """Each reward minus their mean, divided by the scale; 0 where the scale is 0."""
    mean = mean_of(rewards)
    return tuple((reward - mean) / scale if scale else 0.0 for reward in rewards)


def deviation_of(rewards: Sequence[float]) -> float:
    """Unbiased standard deviation (ddof 1), as verl, TRL and V-Triune's code have it."""
    mean = mean_of(rewards)
    return math.sqrt(math.fsum((reward - mean) ** 2 for reward in rewards) / (len(rewards) - 1))

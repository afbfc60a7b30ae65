"""Advantages relative to the mean of the other rollouts of the group."""

from collections.abc import Sequence

from tristream.learner.algorithms.advantages.rewards import checked, mean_of


def leave_one_out_advantages(groups: Sequence[Sequence[float]]) -> list[tuple[float, ...]]:
    """``A_i = R_i - mean of R_j over j != i``: RLOO (Ahmadian et al. 2024, arXiv 2402.14740).

    It is ``n / (n - 1) * (R_i - mean_g)`` in a group of n: an unbiased baseline, since it does not depend on ``R_i``.

    Args:
        groups: final rewards of the valid rollouts of each group, at least two.

    Raises:
        ValueError: a group has fewer than two rewards.
    """
    return [_of_group(checked(rewards)) for rewards in groups]


def _of_group(rewards: Sequence[float]) -> tuple[float, ...]:
    mean, scale = mean_of(rewards), len(rewards) / (len(rewards) - 1)
    return tuple((reward - mean) * scale for reward in rewards)

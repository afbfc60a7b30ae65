"""Advantages relative to the group's mean, in units of the standard deviation of the whole batch."""

from collections.abc import Sequence

from tristream.learner.algorithms.advantages.rewards import centred, checked, deviation_of


def batch_std_advantages(groups: Sequence[Sequence[float]], *, epsilon: float) -> list[tuple[float, ...]]:
    """``A_i = (R_i - mean_g) / (std of all rewards of the batch + epsilon)``: Liu et al. 2025 (arXiv 2508.08221).

    The deviation is the unbiased one of the rewards themselves, as in TRL (``scale_rewards = "batch"``): groups without
    much variance are not blown up.

    Args:
        groups: final rewards of the valid rollouts of each group of the whole batch, at least two.
        epsilon: added to the deviation.

    Raises:
        ValueError: a group has fewer than two rewards.
    """
    bounded = [checked(rewards) for rewards in groups]
    if not bounded:
        return []
    scale = deviation_of([reward for rewards in bounded for reward in rewards]) + epsilon
    return [centred(rewards, scale=scale) for rewards in bounded]

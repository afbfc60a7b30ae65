"""Advantages relative to the group's mean, not divided by a deviation."""

from collections.abc import Sequence

from tristream.learner.algorithms.advantages.rewards import centred, checked


def group_mean_advantages(groups: Sequence[Sequence[float]]) -> list[tuple[float, ...]]:
    """``A_i = R_i - mean_g``: Dr. GRPO (Liu et al. 2025, arXiv 2503.20783), section 3.2.

    Division by the deviation would weigh questions by how close they are to solved or hopeless.

    Args:
        groups: final rewards of the valid rollouts of each group, at least two.

    Raises:
        ValueError: a group has fewer than two rewards.
    """
    return [centred(checked(rewards), scale=1.0) for rewards in groups]

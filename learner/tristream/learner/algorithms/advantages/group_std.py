"""Advantages relative to the group's mean, in units of the group's standard deviation."""

from collections.abc import Sequence

from tristream.learner.algorithms.advantages.rewards import centred, checked, deviation_of


def group_std_advantages(groups: Sequence[Sequence[float]], *, epsilon: float) -> list[tuple[float, ...]]:
    """``A_i = (R_i - mean_g) / (std_g + epsilon)``: GRPO (Shao et al. 2024, arXiv 2402.03300), section 4.1.

    The deviation is the unbiased one, as in verl, TRL and V-Triune's code; verl adds 1e-6 to it, TRL 1e-4.

    Args:
        groups: final rewards of the valid rollouts of each group, at least two.
        epsilon: added to the deviation.

    Raises:
        ValueError: a group has fewer than two rewards.
    """
    return [_of_group(checked(rewards), epsilon) for rewards in groups]


def _of_group(rewards: Sequence[float], epsilon: float) -> tuple[float, ...]:
    return centred(rewards, scale=deviation_of(rewards) + epsilon)

"""Final rewards and advantages: pure functions of what the verifiers said."""

import math
from collections.abc import Mapping, Sequence

from tristream.wire.events import Combine, OnUnscored, RewardSpec

STANDARD_DEVIATION_EPSILON = 1e-6
"""Added to the standard deviation, as verl and V-Triune do."""


def final_reward(spec: RewardSpec, components: Mapping[str, Mapping[str, float]]) -> float | None:
    """Combine component rewards into one, as the sample's own definition says.

    ``sum(w * c) / sum(w)`` over the components of all terms (V-Triune's server normalises alike);
    ``Combine.SUM`` leaves out the division. Components with weight 0 count for nothing.

    Args:
        spec: the sample's definition of reward.
        components: component values by verifier; a verifier that did not score is absent.

    Returns:
        The reward, or None if a weighted component is missing and the sample does not count it as zero.
    """
    total, total_weight = 0.0, 0.0
    for term in spec.terms:
        scored = components.get(term.verifier, {})
        for name, weight in term.weights.items():
            if weight == 0.0:
                continue
            value = scored.get(name)
            if value is None or not math.isfinite(value):
                if spec.on_unscored is not OnUnscored.ZERO:
                    return None
                value = 0.0
            total += weight * value
            total_weight += weight
    if spec.combine is Combine.SUM:
        return total
    return total / total_weight if total_weight > 0 else 0.0


def group_advantages(rewards: Sequence[float]) -> tuple[float, ...]:
    """Advantages of one group: ``(R - mean) / (std + 1e-6)`` with the unbiased standard deviation.

    GRPO (Shao et al. 2024, arXiv 2402.03300, section 4.1); ddof=1 as in verl, TRL and V-Triune's code.

    Args:
        rewards: final rewards of the valid rollouts, at least two.

    Raises:
        ValueError: fewer than two rewards.
    """
    if len(rewards) < 2:
        raise ValueError(f"a group of {len(rewards)} has no baseline")
    mean = math.fsum(rewards) / len(rewards)
    variance = math.fsum((reward - mean) ** 2 for reward in rewards) / (len(rewards) - 1)
    scale = math.sqrt(variance) + STANDARD_DEVIATION_EPSILON
    return tuple((reward - mean) / scale for reward in rewards)


def has_zero_variance(rewards: Sequence[float]) -> bool:
    """Whether all rewards are equal up to rounding, so that the group teaches nothing."""
    return max(rewards) - min(rewards) < 1e-9

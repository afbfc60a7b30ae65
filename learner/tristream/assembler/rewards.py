"""Final rewards: pure functions of what the verifiers said."""

import math
from collections.abc import Mapping, Sequence

from tristream.wire.events import Combine, OnUnscored, RewardSpec


def final_reward(spec: RewardSpec, components: Mapping[str, Mapping[str, float | None]]) -> float | None:
    """Combine component rewards into one, as the sample's own definition says.

    ``sum(w * c) / sum(|w|)`` over the components of all terms that count (V-Triune's server normalises alike, and
    knows no negative weights, which are penalties here: {1, -0.5} gives (c1 - 0.5 c2) / 1.5, never beyond the largest
    component); ``Combine.SUM`` leaves out the division. Shadows and components with weight 0 count for nothing, nor
    do those on which a verifier abstains: the others share the whole weight.

    Args:
        spec: the sample's definition of reward.
        components: component values by term id, None where the verifier abstains; a term without a score is absent.

    Returns:
        The reward; None if a weighted component is missing and the sample does not count it as zero, if there is an
        opinion on none of them, or if the components are so large that their sum is no number.
    """
    total, total_weight = 0.0, 0.0
    num_abstained = 0
    for term in spec.terms:
        if not term.counts:
            continue
        scored = components.get(term.id, {})
        for name, weight in term.weights.items():
            if weight == 0.0:
                continue
            value = scored.get(name, math.nan)
            if value is None:
                num_abstained += 1
                continue
            if not math.isfinite(value):
                if spec.on_unscored is not OnUnscored.ZERO:
                    return None
                value = 0.0
            total += weight * value
            total_weight += abs(weight)
    if not math.isfinite(total) or (num_abstained and not total_weight):
        return None
    if spec.combine is Combine.SUM:
        return total
    return total / total_weight if total_weight > 0 else 0.0


def has_zero_variance(rewards: Sequence[float]) -> bool:
    """Whether there are two rewards or more and all are equal up to rounding, so that the group teaches nothing."""
    return len(rewards) >= 2 and max(rewards) - min(rewards) < 1e-9

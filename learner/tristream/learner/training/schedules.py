"""The learning rate of a step: linear warm-up to the peak, then constant, or down to a share of it."""

import math
from collections.abc import Callable, Mapping

from tristream.config.learner import LearnerSection

SHAPES: Mapping[str, Callable[[float], float]] = {
    "constant": lambda _progress: 1.0,
    "linear": lambda progress: 1.0 - progress,
    "cosine": lambda progress: 0.5 * (1.0 + math.cos(math.pi * progress)),
}
"""From progress after the warm-up, 0 to 1, to what is left of the way down to the final share."""


def learning_rate_at(step: int, settings: LearnerSection, *, num_steps: int) -> float:
    """Learning rate of a step, counted from 1, in a run of ``num_steps``.

    Step ``warmup_steps + 1`` has the peak. ``linear`` and ``cosine`` (Loshchilov and Hutter 2017, equation 5) would
    reach the final share one step after the last, so that each step still learns.
    """
    warm_up = min(1.0, step / (settings.warmup_steps + 1))
    progress = (step - 1 - settings.warmup_steps) / max(1, num_steps - settings.warmup_steps)
    left = SHAPES[settings.learning_rate_schedule](min(1.0, max(0.0, progress)))
    final = settings.final_learning_rate_share
    return settings.learning_rate * warm_up * (final + (1.0 - final) * left)

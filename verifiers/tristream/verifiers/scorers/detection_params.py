"""The parameters of the detection verifier: checked, with their defaults, and the dynamic threshold.

The threshold schedule is V-Triune's dynamic IoU reward (arXiv 2505.18129, section 3.4): easy boxes
are rewarded at the start, and only exact ones in the end.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Field

from tristream.verifiers.contract import Rollout, Unscorable

Share = Annotated[float, Field(strict=True, ge=0, le=1)]
IouThreshold = Annotated[float, Field(strict=True, gt=0, le=1)]
Threshold = Literal["dynamic", "average"] | IouThreshold
Schedule = Annotated[tuple[tuple[Share, IouThreshold], ...], Field(min_length=1)]
"""Up to this share of the run, this IoU threshold; shares rise."""

DEFAULT_SCHEDULE: Schedule = ((0.10, 0.85), (0.25, 0.95), (1.0, 0.99))
"""V-Triune's."""

DEFAULT_RATIOS: Mapping[str, float] = {
    "iou_max_label_first": 1.0,
    "iou_max_iou_first": 0.0,
    "iou_completeness": 0.3,
    "map": 0.0,
    "map50": 0.0,
    "map75": 0.0,
}
"""V-Triune's shipped mixture; used where a sample gives none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DetectionParams:
    """Parameters of one rollout, resolved."""

    iou_threshold: float | None
    """The threshold that holds for this rollout; None means the mean over all thresholds."""
    ratios: Mapping[str, float]
    image_size: tuple[float, float] | None
    """(width, height) in pixels of the predictions; None if they are on the truth's grid 0..1000."""


def resolve_threshold(threshold: Threshold, schedule: Schedule, rollout: Rollout) -> float | None:
    """The threshold that holds for a rollout; None for the mean over all of them.

    Raises:
        Unscorable: the shares of the schedule do not rise, or the run has no steps.
    """
    if threshold == "average":
        return None
    if threshold != "dynamic":
        return float(threshold)
    shares = [share for share, _ in schedule]
    if shares != sorted(shares):
        raise Unscorable("schedule must be a list of [share of the run, threshold] with rising shares")
    try:
        progress = rollout.progress
    except (ArithmeticError, TypeError):
        raise Unscorable(f"step {rollout.step!r} of {rollout.total_steps!r} is no place in a run") from None
    return next((limit for share, limit in schedule if progress <= share), schedule[-1][1])


def resolve_ratios(value: object) -> Mapping[str, float]:
    """The weights of the parts; nulls are absent, and absent ones 0; without any, V-Triune's shipped mixture.

    Raises:
        Unscorable: a weight has no meaning, or none is above 0.
    """
    if value is None:
        return DEFAULT_RATIOS
    if not isinstance(value, Mapping):
        raise Unscorable(f"det_reward_ratio must be an object, not {_short(value)}")
    given = {name: ratio for name, ratio in value.items() if ratio is not None}
    for name, ratio in given.items():
        if name not in DEFAULT_RATIOS:
            raise Unscorable(f"det_reward_ratio has no {_short(name)}; it has {', '.join(DEFAULT_RATIOS)}")
        if isinstance(ratio, bool) or not isinstance(ratio, int | float) or not 0 <= ratio <= 1:
            raise Unscorable(f"det_reward_ratio.{name} must be a number in [0, 1], not {_short(ratio)}")
    if not given:
        return DEFAULT_RATIOS
    ratios = dict.fromkeys(DEFAULT_RATIOS, 0.0) | given
    if not any(ratio for name, ratio in ratios.items() if name != "iou_completeness"):
        raise Unscorable("det_reward_ratio has no weight above 0")
    return ratios


def resolve_image_size(is_in_pixels: object, grid: Any) -> tuple[float, float] | None:  # noqa: ANN401 - JSON
    """(width, height) of the first image, from V-Triune's ``image_grid_thw`` in pixels; None if it is not needed.

    Raises:
        Unscorable: it is needed and unusable.
    """
    if not is_in_pixels:
        return None
    try:
        _, height, width = grid[0]
        size = (float(width), float(height))
    except (TypeError, ValueError, LookupError, OverflowError):
        raise Unscorable(
            f"det_verifier_normalized needs image_grid_thw [[t, height, width]], not {_short(grid)}"
        ) from None
    if not 0 < min(size) <= max(size) < 1e9:
        raise Unscorable(f"image_grid_thw has no usable area: {_short(grid)}")
    return size


def _short(value: object) -> str:
    return repr(value)[:80]

"""The parameters of the detection verifier: checked, with their defaults, and the dynamic threshold.

The threshold schedule is V-Triune's dynamic IoU reward (arXiv 2505.18129, section 3.4): easy boxes
are rewarded at the start, and only exact ones in the end.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tristream.verifiers.scorers.boxes import PARSERS
from tristream.verifiers.verifier import ScoringRequest, Unscorable

DEFAULT_SCHEDULE = ((0.10, 0.85), (0.25, 0.95), (1.0, 0.99))
"""Up to this share of the run, this IoU threshold."""

DEFAULT_RATIOS: Mapping[str, float] = {
    "iou_max_label_first": 1.0,
    "iou_max_iou_first": 0.0,
    "iou_completeness": 0.3,
    "map": 0.0,
    "map50": 0.0,
    "map75": 0.0,
}
"""V-Triune's shipped mixture; used where a sample gives none."""

Schedule = tuple[tuple[float, float], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class DetectionParams:
    """Parameters of one request, resolved."""

    iou_threshold: float | None
    """The threshold that holds for this request; None means the mean over all thresholds."""
    ratios: Mapping[str, float]
    parser: str
    image_size: tuple[float, float] | None
    """(width, height) in pixels of the predictions; None if they are on the truth's grid 0..1000."""
    as_used: Mapping[str, Any]
    """What to record of them."""


def resolve_params(request: ScoringRequest) -> DetectionParams:
    """Check the parameters of a request and fill in the defaults; nulls count as absent.

    Raises:
        Unscorable: a parameter has no meaning.
    """
    params = {name: value for name, value in request.params.items() if value is not None}
    mode = params.get("threshold", "dynamic")
    schedule = _schedule(params.get("schedule", DEFAULT_SCHEDULE))
    threshold = _threshold(mode, schedule, request.step / request.total_steps)
    ratios = _ratios(params.get("det_reward_ratio", {}))
    parser = params.get("parser", "vtriune")
    if parser not in PARSERS:
        raise Unscorable(f"parser must be one of {', '.join(PARSERS)}, not {parser!r}")
    image_size = _image_size(params)
    as_used: dict[str, Any] = {"threshold": mode, "det_reward_ratio": dict(ratios), "parser": parser}
    if threshold is not None:
        as_used["iou_threshold"] = threshold
    if mode == "dynamic":
        as_used["schedule"] = schedule
    if image_size is not None:
        as_used["image_size"] = image_size
    return DetectionParams(
        iou_threshold=threshold, ratios=ratios, parser=parser, image_size=image_size, as_used=as_used
    )


def _threshold(mode: object, schedule: Schedule, ratio: float) -> float | None:
    if mode == "average":
        return None
    if mode == "dynamic":
        return next((threshold for limit, threshold in schedule if ratio <= limit), schedule[-1][1])
    if _is_number(mode, low=0.0, high=1.0) and mode != 0:
        return float(mode)  # type: ignore[arg-type]
    raise Unscorable(f"threshold must be 'dynamic', 'average' or a number in (0, 1], not {mode!r}")


def _schedule(value: object) -> Schedule:
    """Check a list of ``[share of the run, threshold]`` with rising shares."""
    entries = value if isinstance(value, Sequence) and not isinstance(value, str) else ()
    schedule = []
    for entry in entries:
        if not isinstance(entry, Sequence) or len(entry) != 2 or not all(_is_number(number) for number in entry):
            raise Unscorable(f"schedule has an entry {entry!r}; write [share of the run, threshold]")
        schedule.append((float(entry[0]), float(entry[1])))
    if not schedule or schedule != sorted(schedule) or schedule[0][1] <= 0:
        raise Unscorable(f"schedule must be a list of [share, threshold] with rising shares, not {value!r}")
    return tuple(schedule)


def _ratios(value: object) -> Mapping[str, float]:
    if not isinstance(value, Mapping):
        raise Unscorable(f"det_reward_ratio must be an object, not {value!r}")
    given = {name: ratio for name, ratio in value.items() if ratio is not None}
    for name, ratio in given.items():
        if name not in DEFAULT_RATIOS:
            raise Unscorable(f"det_reward_ratio has no '{name}'; it has {', '.join(DEFAULT_RATIOS)}")
        if not _is_number(ratio):
            raise Unscorable(f"det_reward_ratio.{name} must be a number in [0, 1], not {ratio!r}")
    if not given:
        return DEFAULT_RATIOS
    ratios = dict.fromkeys(DEFAULT_RATIOS, 0.0) | given
    if not any(ratio for name, ratio in ratios.items() if name != "iou_completeness"):
        raise Unscorable("det_reward_ratio has no weight above 0")
    return ratios


def _image_size(params: Mapping[str, Any]) -> tuple[float, float] | None:
    """(width, height) of the first image, from V-Triune's ``image_grid_thw`` in pixels."""
    if not params.get("det_verifier_normalized", False):
        return None
    grid = params.get("image_grid_thw")
    try:
        _, height, width = grid[0]  # type: ignore[index]
        size = (float(width), float(height))
    except (TypeError, ValueError, IndexError):
        raise Unscorable(f"det_verifier_normalized needs image_grid_thw [[t, height, width]], not {grid!r}") from None
    if min(size) <= 0:
        raise Unscorable(f"image_grid_thw has no area: {grid!r}")
    return size


def _is_number(value: object, *, low: float = 0.0, high: float = 1.0) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and low <= value <= high

"""Detection bug for bug as V-Triune's reward server scores it.

Where that server fails it answers zeros, format included, and so does this. The metrics are its further fields, without
their ending ``_reward``.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tristream.verifiers.contract import Score
from tristream.verifiers.scorers.average_precision import THRESHOLDS, average_precisions
from tristream.verifiers.scorers.boxes import Box
from tristream.verifiers.scorers.matching import Matching, Overlaps, compute_overlaps
from tristream.verifiers.scorers.vtriune_boxes import GreedyMatcher, read_vtriune_boxes, rescale_as_vtriune

Match = Callable[[float], Matching]

COUNT_PENALTY = 0.6
"""Factor of accuracy for each box too many or too few."""
MAX_AREA = 1e10
"""COCOeval's largest area that counts."""

PARTS = {
    "iou_max_iou_first": "iou_score_max_iou",
    "iou_max_label_first": "iou_score_max_label",
    "map": "map_score",
    "map50": "map50_score",
    "map75": "map75_score",
}
"""Weights, and the fields ``pure_...`` and ``weighted_...`` of what they weigh."""
REPORTS = {"iou_match": (0.5, 0.95), "label_match": (0.5, 0.75, 0.95, 0.99)}
"""Thresholds that are reported, by matching."""
REPORT_FIELDS = tuple(
    f"report_iou_{threshold * 100:.0f}_{name}_{kind}"
    for name, thresholds in REPORTS.items()
    for threshold in thresholds
    for kind in ("pure", "precision", "recall")
)
FIELDS = (
    "size_penalty",
    *(f"{kind}_{field}" for kind in ("pure", "weighted") for field in PARTS.values()),
    *REPORT_FIELDS,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class VtriuneRequest:
    """Parameters as they come: V-Triune checks nothing."""

    iou_threshold: float | None
    """None means the mean over all thresholds."""
    ratios: Any
    is_in_pixels: Any
    grid: Any


def score_as_vtriune(text: str, truth: Sequence[Box] | None, request: VtriuneRequest) -> Score:
    """Components ``accuracy`` and ``format``; metrics ``FIELDS``, none where V-Triune's server fails."""
    predicted = read_vtriune_boxes(text)
    is_tagged = "\n<answer>\n" in text and text.count("\n</answer>") == 1
    used = {} if request.iou_threshold is None else {"iou_threshold": request.iou_threshold}
    metrics: dict[str, float] = dict.fromkeys(FIELDS, 0.0)
    accuracy = 0.0
    try:
        weights = _weights(request.ratios)
        if truth is not None and predicted is not None:
            boxes = rescale_as_vtriune(predicted, request.grid) if request.is_in_pixels else predicted
            metrics = dict(_judge(boxes, truth, request.iou_threshold, weights["iou_completeness"]))
            accuracy = _accuracy(metrics, weights)
    except (ArithmeticError, LookupError, TypeError):
        return Score(components={"accuracy": 0.0, "format": 0.0}, params_used=used)
    return Score(
        components={"accuracy": accuracy, "format": float(is_tagged and predicted is not None)},
        metrics=metrics,
        params_used=used,
    )


def _weights(ratios: Any) -> Mapping[str, float]:  # noqa: ANN401 - V-Triune takes anything
    """The weights; absent ones, and those outside 0..1, are 0.

    Raises:
        TypeError: V-Triune's server fails: one is null, say.
    """
    if ratios is not None and not isinstance(ratios, Mapping):
        raise TypeError("the weights are no object")
    weights = {}
    for name in (*PARTS, "iou_completeness"):
        weight = (ratios or {}).get(name, 0.0)
        if not isinstance(weight, int | float) or weight != weight:  # NaN
            raise TypeError(f"the weight {name} is no number")
        weights[name] = float(weight) if 0 <= weight <= 1 else 0.0
    return weights


def _judge(
    predicted: Sequence[Box], truth: Sequence[Box], threshold: float | None, completeness_weight: float
) -> Iterator[tuple[str, float]]:
    """The fields, in V-Triune's order."""
    overlaps = compute_overlaps(predicted, truth)
    matcher = GreedyMatcher(predicted, truth, overlaps)
    penalty = COUNT_PENALTY ** abs(len(predicted) - len(truth))
    limits = (*THRESHOLDS, 0.99) if threshold is None else (threshold,)

    def weighted(match: Match) -> float:
        return sum(match(limit).weighted_iou(completeness_weight) for limit in limits) / len(limits)

    pure = [
        weighted(matcher.iou_first),
        weighted(matcher.label_first),
        *_mean_precisions(predicted, truth, overlaps),
    ]
    yield "size_penalty", penalty
    for field, value in zip(PARTS.values(), pure, strict=True):
        yield f"pure_{field}", value
    for field, value in zip(PARTS.values(), pure, strict=True):
        yield f"weighted_{field}", value * penalty
    reported = [
        *(matcher.iou_first(limit) for limit in REPORTS["iou_match"]),
        *(matcher.label_first(limit) for limit in REPORTS["label_match"]),
    ]
    yield from zip(REPORT_FIELDS, (value for matching in reported for value in _report(matching)), strict=True)


def _report(matching: Matching) -> tuple[float, float, float]:
    return matching.mean_iou, matching.precision, matching.recall


def _mean_precisions(predicted: Sequence[Box], truth: Sequence[Box], overlaps: Overlaps) -> tuple[float, float, float]:
    """mAP, mAP50 and mAP75."""
    labels = {box.label for box in truth}
    counted = [box for box in predicted if box.label in labels]
    if not counted:
        return 0.0, 0.0, 0.0
    for box in (*counted, *truth):  # COCOeval computes in doubles, and fails on what is none
        for side in (box.left, box.top, box.right - box.left, box.bottom - box.top):
            float(side)
    precisions = average_precisions(predicted, truth, overlaps, max_area=MAX_AREA)
    return sum(precisions) / len(precisions), precisions[0], precisions[5]


def _accuracy(fields: Mapping[str, float], weights: Mapping[str, float]) -> float:
    """The weighted mean of the parts; 0 if all weights are. Kept in 0..1, which COCOeval's -1 may leave."""
    total = sum(weights[name] for name in PARTS)
    if total == 0:
        return 0.0
    value = sum(weights[name] * fields[f"weighted_{field}"] for name, field in PARTS.items()) / total
    return min(1.0, max(0.0, value))

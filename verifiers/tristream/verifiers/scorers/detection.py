"""Boxes in ``<answer>`` against the true ones: V-Triune's detection reward, with its bugs or without.

accuracy = sum(r * part) / sum(r) over the IoU of boxes of the same label, the IoU of boxes whatever their label, mAP,
mAP50 and mAP75; an IoU part is the weighted IoU of its matching at the threshold, and each part is multiplied by
``0.6 ** |predicted - true|``. format = 1 if boxes can be read from the one pair of answer tags.
(arXiv 2505.18129, sections 3.2 and 3.4, and the published code where it says more.)
"""

from collections.abc import Mapping, Sequence
from typing import Any

from tristream.verifiers.contract import Rollout, Score, Unscorable
from tristream.verifiers.definition import verifier
from tristream.verifiers.scorers.answers import has_one_answer
from tristream.verifiers.scorers.average_precision import THRESHOLDS, average_precisions
from tristream.verifiers.scorers.boxes import Box, read_boxes, rescale
from tristream.verifiers.scorers.detection_params import (
    DEFAULT_SCHEDULE,
    DetectionParams,
    Schedule,
    Threshold,
    resolve_image_size,
    resolve_ratios,
    resolve_threshold,
)
from tristream.verifiers.scorers.matching import (
    MatchingStrategy,
    Overlaps,
    compute_overlaps,
    match_boxes,
    match_labels,
)
from tristream.verifiers.scorers.parameters import Style, refuse_unknown
from tristream.verifiers.scorers.vtriune_boxes import read_vtriune_boxes
from tristream.verifiers.scorers.vtriune_detection import COUNT_PENALTY, VtriuneRequest, score_as_vtriune
from tristream.wire.verifiers import BUILT_IN_VERSIONS

AVERAGED_THRESHOLDS = (*THRESHOLDS, 0.99)
REPORTED_THRESHOLDS = (0.5, 0.75, 0.95, 0.99)

MATCHING_KINDS = ("pure", "precision", "recall")
METRIC_NAMES = (
    *(f"iou_{threshold * 100:.0f}_{kind}" for threshold in REPORTED_THRESHOLDS for kind in MATCHING_KINDS),
    "map",
    "map50",
    "map75",
)
"""Metrics that compare boxes: 0 if no box can be read. ``pure`` is the mean IoU of the matching of labels."""


def parse_true_boxes(ground_truth: str, *, style: Style = "standard") -> list[Box] | None:
    """Read the true boxes; in V-Triune's style None if they cannot be read.

    Raises:
        Unscorable: they cannot be read.
    """
    if style == "vtriune":
        return read_vtriune_boxes(ground_truth)
    truth = read_boxes(ground_truth)
    if truth is None:
        raise Unscorable(f"the truth has no readable box: {ground_truth[:80]!r}")
    return truth


@verifier(
    name="detection", version=BUILT_IN_VERSIONS["detection"], components=["accuracy", "format"], truth=parse_true_boxes
)
def score_detection(
    rollout: Rollout,
    /,
    *,
    style: Style = "standard",
    threshold: Threshold = "dynamic",
    schedule: Schedule = DEFAULT_SCHEDULE,
    det_reward_ratio: Any = None,  # noqa: ANN401 - V-Triune takes anything
    det_verifier_normalized: Any = False,  # noqa: ANN401
    image_grid_thw: Any = None,  # noqa: ANN401
    **others: Any,  # noqa: ANN401 - V-Triune's requests have more
) -> Score:
    """Metrics: of the matching at fixed thresholds, mAP, numbers of boxes; in V-Triune's style, its own."""
    refuse_unknown(score_detection, others)
    iou_threshold = resolve_threshold(threshold, schedule, rollout)
    if style == "vtriune":
        request = VtriuneRequest(
            iou_threshold=iou_threshold,
            ratios=det_reward_ratio,
            is_in_pixels=det_verifier_normalized,
            grid=image_grid_thw,
        )
        return score_as_vtriune(rollout.text, rollout.truth, request)
    params = DetectionParams(
        iou_threshold=iou_threshold,
        ratios=resolve_ratios(det_reward_ratio),
        image_size=resolve_image_size(det_verifier_normalized, image_grid_thw),
    )
    return _score(rollout.text, rollout.truth, params)


def _score(text: str, truth: Sequence[Box], params: DetectionParams) -> Score:
    predicted = read_boxes(text)
    metrics: dict[str, float] = {"num_truth_boxes": len(truth), "num_boxes": len(predicted or ())}
    used: dict[str, Any] = {"det_reward_ratio": dict(params.ratios)}
    if params.iou_threshold is not None:
        metrics["iou_threshold"] = used["iou_threshold"] = params.iou_threshold
    accuracy = 0.0
    if predicted is None:
        metrics.update(dict.fromkeys(METRIC_NAMES, 0.0))
    else:
        if params.image_size is not None:
            predicted = [rescale(box, *params.image_size) for box in predicted]
        accuracy = _accuracy(predicted, truth, params, metrics)
    is_well_formed = predicted is not None and has_one_answer(text, "tags")
    return Score(components={"accuracy": accuracy, "format": float(is_well_formed)}, metrics=metrics, params_used=used)


def _accuracy(
    predicted: Sequence[Box], truth: Sequence[Box], params: DetectionParams, metrics: dict[str, float]
) -> float:
    """The accuracy; adds the metrics on the way."""
    overlaps = compute_overlaps(predicted, truth)
    for threshold in REPORTED_THRESHOLDS:
        matching = match_labels(predicted, truth, overlaps, threshold)
        prefix = f"iou_{threshold * 100:.0f}"
        metrics[f"{prefix}_pure"] = matching.mean_iou
        metrics[f"{prefix}_precision"] = matching.precision
        metrics[f"{prefix}_recall"] = matching.recall
    precisions = average_precisions(predicted, truth, overlaps)
    metrics["map"] = sum(precisions) / len(precisions)
    metrics["map50"], metrics["map75"] = precisions[0], precisions[5]

    def weighted(strategy: MatchingStrategy) -> float:
        return _weighted_iou(strategy, predicted, truth, overlaps, params)

    parts: Mapping[str, float] = {
        "iou_max_label_first": weighted(match_labels) if params.ratios["iou_max_label_first"] else 0.0,
        "iou_max_iou_first": weighted(match_boxes) if params.ratios["iou_max_iou_first"] else 0.0,
        "map": metrics["map"],
        "map50": metrics["map50"],
        "map75": metrics["map75"],
    }
    penalty = COUNT_PENALTY ** abs(len(predicted) - len(truth))
    total = sum(params.ratios[name] for name in parts)
    accuracy = sum(params.ratios[name] * part * penalty for name, part in parts.items()) / total
    return min(1.0, max(0.0, accuracy))  # rounding may leave the range by a hair


def _weighted_iou(
    strategy: MatchingStrategy,
    predicted: Sequence[Box],
    truth: Sequence[Box],
    overlaps: Overlaps,
    params: DetectionParams,
) -> float:
    """Weighted IoU of one strategy at the threshold, or its mean over all of them."""
    thresholds = AVERAGED_THRESHOLDS if params.iou_threshold is None else (params.iou_threshold,)
    completeness = params.ratios["iou_completeness"]
    values = [strategy(predicted, truth, overlaps, threshold).weighted_iou(completeness) for threshold in thresholds]
    return sum(values) / len(values)

"""Boxes in ``<answer>`` against the true ones: V-Triune's detection reward.

accuracy = sum(r * part) / sum(r) over label-first IoU, IoU-first IoU, mAP, mAP50 and mAP75; an IoU part
is the weighted IoU of its matching at the threshold, and each part is multiplied by
``0.6 ** |predicted - true|``. format = 1 if the answer is tagged and boxes can be read from it.
(arXiv 2505.18129, sections 3.2 and 3.4, and the published code where it says more.)
"""

from collections.abc import Mapping, Sequence
from typing import ClassVar

from tristream.verifiers.scorers.average_precision import THRESHOLDS, average_precisions
from tristream.verifiers.scorers.boxes import PARSERS, Box, rescale
from tristream.verifiers.scorers.detection_params import DetectionParams, resolve_params
from tristream.verifiers.scorers.matching import (
    MatchingStrategy,
    Overlaps,
    compute_overlaps,
    match_iou_first,
    match_label_first,
)
from tristream.verifiers.verifier import Score, ScoringRequest, Unscorable
from tristream.wire.verifiers import BUILT_IN_VERSIONS

AVERAGED_THRESHOLDS = (*THRESHOLDS, 0.99)
REPORTED_THRESHOLDS = (0.5, 0.75, 0.95, 0.99)
COUNT_PENALTY = 0.6
"""Factor of accuracy for each box too many or too few."""

MATCHING_KINDS = ("pure", "precision", "recall")
METRIC_NAMES = (
    *(f"iou_{threshold * 100:.0f}_{kind}" for threshold in REPORTED_THRESHOLDS for kind in MATCHING_KINDS),
    "map",
    "map50",
    "map75",
)
"""Metrics that compare boxes: 0 if no box can be read. ``pure`` is the mean IoU of the label-first matching."""


class DetectionVerifier:
    """Parameters: ``threshold``, ``schedule``, ``det_reward_ratio``, ``det_verifier_normalized``, ``parser``."""

    name: ClassVar[str] = "detection"
    version: ClassVar[str] = BUILT_IN_VERSIONS["detection"]

    def score(self, request: ScoringRequest) -> Score:
        """Components ``accuracy`` and ``format``; metrics of the matching at fixed thresholds and mAP."""
        params = resolve_params(request)
        parse = PARSERS[params.parser]
        truth = parse(request.ground_truth)
        if truth is None:
            raise Unscorable(f"the truth has no readable box: {request.ground_truth[:80]!r}")
        predicted = parse(request.text)
        tagged = request.text.count("\n<answer>\n") >= 1 and request.text.count("\n</answer>") == 1
        metrics: dict[str, float] = {"num_truth_boxes": len(truth), "num_boxes": len(predicted or ())}
        if params.iou_threshold is not None:
            metrics["iou_threshold"] = params.iou_threshold
        accuracy = 0.0
        if predicted is not None:
            if params.image_size is not None:
                predicted = [rescale(box, *params.image_size) for box in predicted]
            accuracy = _accuracy(predicted, truth, params, metrics)
        else:
            metrics.update(dict.fromkeys(METRIC_NAMES, 0.0))
        return Score(
            components={"accuracy": accuracy, "format": float(tagged and predicted is not None)},
            metrics=metrics,
            params_used=params.as_used,
        )


def _accuracy(
    predicted: Sequence[Box], truth: Sequence[Box], params: DetectionParams, metrics: dict[str, float]
) -> float:
    """The accuracy; adds the metrics on the way."""
    overlaps = compute_overlaps(predicted, truth)
    for threshold in REPORTED_THRESHOLDS:
        matching = match_label_first(predicted, truth, overlaps, threshold)
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
        "iou_max_label_first": weighted(match_label_first),
        "iou_max_iou_first": weighted(match_iou_first) if params.ratios["iou_max_iou_first"] else 0.0,
        "map": metrics["map"],
        "map50": metrics["map50"],
        "map75": metrics["map75"],
    }
    penalty = COUNT_PENALTY ** abs(len(predicted) - len(truth))
    total = sum(params.ratios[name] for name in parts)
    return sum(params.ratios[name] * part * penalty for name, part in parts.items()) / total


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

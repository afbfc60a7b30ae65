"""What detection would have said at another IoU threshold, from the metrics that it recorded of each answer."""

from collections.abc import Mapping

from tristream.monitoring.queries.why.facts import Verdict

RECORDED = (0.5, 0.75, 0.95, 0.99)
"""Thresholds at which detection records its matching whatever its own threshold is."""
COUNT_PENALTY = 0.6
"""Factor of accuracy for each box too many or too few (arXiv 2505.18129, section 3.2)."""
SHIPPED_RATIOS: Mapping[str, float] = {"iou_max_label_first": 1.0, "iou_completeness": 0.3}
OTHER_PARTS = ("map", "map50", "map75")
"""Parts of the accuracy that no threshold moves."""


def accuracy_at(verdict: Verdict, threshold: float) -> float | None:
    """Accuracy of an answer at another threshold; None if what was recorded does not tell.

    ``sum(r * part) / sum(r) * 0.6 ** |predicted - true|``, and for matched boxes ``(1 - c) IoU + c (P + R) / 2``
    where IoU, precision P and recall R are those of the matching at the threshold (arXiv 2505.18129, section 3.4).

    Example:
        >>> said = {"num_boxes": 1, "num_truth_boxes": 1, "map": 0, "map50": 0, "map75": 0}
        >>> said |= {"iou_95_pure": 0.96, "iou_95_precision": 1, "iou_95_recall": 1}
        >>> verdict = Verdict(term_id="d", verifier="detection", version="2", status="scored", components={},
        ...                   metrics=said, threshold=0.99, ratios={})
        >>> round(accuracy_at(verdict, 0.95), 3)
        0.972
    """
    if verdict.threshold == threshold:
        return verdict.components.get("accuracy")
    metrics, ratios = verdict.metrics, verdict.ratios or SHIPPED_RATIOS
    nearest = min(RECORDED, key=lambda recorded: abs(recorded - threshold))
    prefix = f"iou_{nearest * 100:.0f}"
    needed = [f"{prefix}_{kind}" for kind in ("pure", "precision", "recall")]
    if abs(nearest - threshold) > 1e-9 or ratios.get("iou_max_iou_first") or not all(n in metrics for n in needed):
        return None
    mean_iou, precision, recall = (metrics[name] for name in needed)
    completeness = ratios.get("iou_completeness", 0.0)
    matched = (1 - completeness) * mean_iou + completeness * (precision + recall) / 2
    parts = {"iou_max_label_first": matched, **{name: metrics.get(name, 0.0) for name in OTHER_PARTS}}
    total = sum(ratios.get(name, 0.0) for name in parts)
    if total <= 0:
        return None
    penalty = COUNT_PENALTY ** abs(metrics.get("num_boxes", 0.0) - metrics.get("num_truth_boxes", 0.0))
    value: float = sum(ratios.get(name, 0.0) * part for name, part in parts.items()) / total * penalty
    return min(1.0, max(0.0, value))

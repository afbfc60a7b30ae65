"""COCO's average precision for one image, where every prediction is equally sure.

As COCOeval: per label, predictions claim the unmatched true box that overlaps most, precision is
made monotone and read at 101 recalls, and the mean is over the labels of the truth and ten
thresholds. At most 100 predictions of a label count; labels that the truth lacks are left out.
"""

import math
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass

from tristream.verifiers.scorers.boxes import Box
from tristream.verifiers.scorers.matching import Overlaps

THRESHOLDS = tuple(round(0.5 + 0.05 * index, 2) for index in range(10))
RECALLS = tuple(index * 0.01 for index in range(101))
"""As numpy.linspace makes them for COCOeval: some are a hair above the decimal."""
MAX_DETECTIONS = 100
NOTHING_COUNTS = -1.0
"""What COCOeval says where no true box counts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Label:
    """Predictions and true boxes of one label."""

    overlaps: Overlaps
    """A row for each true box, those that count first."""
    num_counting: int
    """True boxes that count."""
    is_ignored: Sequence[bool]
    """For each prediction, whether it counts only if it finds something."""


def average_precisions(
    predicted: Sequence[Box], truth: Sequence[Box], overlaps: Overlaps, *, max_area: float = math.inf
) -> tuple[float, ...]:
    """Mean average precision over the labels of the truth, at each of ``THRESHOLDS``.

    Args:
        predicted: in the order of the answer.
        truth: the true boxes.
        overlaps: of each true box with each prediction.
        max_area: larger true boxes, and larger predictions that find nothing, do not count.

    Returns:
        ten numbers 0..1; their mean is mAP, the first is mAP50 and the sixth mAP75. All are -1 if no true box counts.
    """
    if not truth:
        return (float(not predicted),) * len(THRESHOLDS)
    labels = [_label(label, predicted, truth, overlaps, max_area) for label in sorted({box.label for box in truth})]
    curves = [_precisions_of(label) for label in labels if label.num_counting]
    if not curves:
        return (NOTHING_COUNTS,) * len(THRESHOLDS)
    return tuple(sum(values) / len(curves) for values in zip(*curves, strict=True))


def _label(label: str, predicted: Sequence[Box], truth: Sequence[Box], overlaps: Overlaps, max_area: float) -> _Label:
    columns = [index for index, box in enumerate(predicted) if box.label == label][:MAX_DETECTIONS]
    rows = [index for index, box in enumerate(truth) if box.label == label]
    ignored = [row for row in rows if truth[row].area > max_area]
    counting = [row for row in rows if row not in ignored]
    return _Label(
        overlaps=[[overlaps[row][column] for column in columns] for row in (*counting, *ignored)],
        num_counting=len(counting),
        is_ignored=[predicted[column].area > max_area for column in columns],
    )


def _precisions_of(label: _Label) -> list[float]:
    """Average precision of one label at each threshold; two that are reached by the same pairs are computed once."""
    ious = [iou for row in label.overlaps for iou in row]
    values: list[float] = []
    before, value = -1, 0.0
    for threshold in THRESHOLDS:
        num_reaching = sum(iou >= threshold for iou in ious)
        if num_reaching != before:
            before, value = num_reaching, _average_precision(label, threshold) if num_reaching else 0.0
        values.append(value)
    return values


def _average_precision(label: _Label, threshold: float) -> float:
    """Area under the precision-recall curve of one label, read at 101 recalls."""
    recalls, precisions, found, rank = [], [], 0, 0
    for hit in _claim(label, threshold):
        found += hit is True
        rank += hit is not None
        recalls.append(found / label.num_counting)
        precisions.append(found / rank if rank else 0.0)
    for index in range(len(precisions) - 1, 0, -1):
        precisions[index - 1] = max(precisions[index - 1], precisions[index])
    positions = (bisect_left(recalls, recall) for recall in RECALLS)
    return sum(precisions[position] for position in positions if position < len(precisions)) / len(RECALLS)


def _claim(label: _Label, threshold: float) -> list[bool | None]:
    """Whether each prediction, in order, finds a true box that is still free; None if it does not count."""
    free = list(range(len(label.overlaps)))
    hits: list[bool | None] = []
    for column, is_ignored in enumerate(label.is_ignored):
        reached = [row for row in free if label.overlaps[row][column] >= min(threshold, 1 - 1e-10)]
        # A box that counts goes before one that does not; of equal overlaps, the later.
        best = max(reached, key=lambda row: (row < label.num_counting, label.overlaps[row][column], row), default=None)
        if best is None:
            hits.append(None if is_ignored else False)
            continue
        free.remove(best)
        hits.append(True if best < label.num_counting else None)
    return hits

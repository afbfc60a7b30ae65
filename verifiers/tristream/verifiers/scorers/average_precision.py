"""COCO's average precision for one image, where every prediction is equally sure.

As COCOeval: per label, predictions claim the unmatched true box that overlaps most, precision is
made monotone and read at 101 recalls, and the mean is over the labels of the truth and ten
thresholds. At most 100 predictions of a label count; labels that the truth lacks are left out.
"""

from bisect import bisect_left
from collections.abc import Sequence

from tristream.verifiers.scorers.boxes import Box
from tristream.verifiers.scorers.matching import Overlaps

THRESHOLDS = tuple(round(0.5 + 0.05 * index, 2) for index in range(10))
RECALLS = tuple(index / 100 for index in range(101))
MAX_DETECTIONS = 100


def average_precisions(predicted: Sequence[Box], truth: Sequence[Box], overlaps: Overlaps) -> tuple[float, ...]:
    """Mean average precision over the labels of the truth, at each of ``THRESHOLDS``.

    Returns:
        ten numbers 0..1; their mean is mAP, the first is mAP50 and the sixth mAP75.
    """
    if not truth:
        return (float(not predicted),) * len(THRESHOLDS)
    labels = sorted({box.label for box in truth})
    totals = [0.0] * len(THRESHOLDS)
    for label in labels:
        columns = [index for index, box in enumerate(predicted) if box.label == label][:MAX_DETECTIONS]
        targets = [row for row, box in zip(overlaps, truth, strict=True) if box.label == label]
        rows = [[row[column] for column in columns] for row in targets]
        for index, threshold in enumerate(THRESHOLDS):
            totals[index] += _average_precision(rows, len(columns), threshold)
    return tuple(total / len(labels) for total in totals)


def _average_precision(overlaps: Overlaps, num_predicted: int, threshold: float) -> float:
    """Area under the precision-recall curve of one label, read at 101 recalls."""
    hits = _claim(overlaps, num_predicted, threshold)
    recalls, precisions, found = [], [], 0
    for rank, hit in enumerate(hits, start=1):
        found += hit
        recalls.append(found / len(overlaps))
        precisions.append(found / rank)
    for index in range(len(precisions) - 1, 0, -1):
        precisions[index - 1] = max(precisions[index - 1], precisions[index])
    positions = (bisect_left(recalls, recall) for recall in RECALLS)
    return sum(precisions[position] for position in positions if position < len(precisions)) / len(RECALLS)


def _claim(overlaps: Overlaps, num_predicted: int, threshold: float) -> list[bool]:
    """Whether each prediction, in order, finds a true box that is still free."""
    free = set(range(len(overlaps)))
    hits = []
    for column in range(num_predicted):
        best = max(free, key=lambda row: (overlaps[row][column], row), default=None)
        hit = best is not None and overlaps[best][column] >= min(threshold, 1 - 1e-10)
        if hit and best is not None:
            free.discard(best)
        hits.append(hit)
    return hits

"""Which predicted box stands for which true one, and what that is worth."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tristream.verifiers.scorers.assignment import best_assignment
from tristream.verifiers.scorers.boxes import Box, intersection_over_union

Overlaps = Sequence[Sequence[float]]
"""``overlaps[truth][prediction]``: intersection over union."""

Pair = tuple[float, int, int]
"""An overlap, the true box and the predicted one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Matching:
    """The matched pairs at one threshold."""

    ious: tuple[float, ...]
    """What each matched pair counts."""
    num_predicted: int
    num_truth: int

    @property
    def mean_iou(self) -> float:
        """Sum over the matches by the number of true boxes; 1 if there is nothing to find and nothing is claimed."""
        if self.num_truth == 0:
            return float(self.num_predicted == 0)
        return sum(self.ious) / self.num_truth

    @property
    def precision(self) -> float:
        """Share of the predictions that are matched."""
        if self.num_predicted == 0:
            return float(self.num_truth == 0)
        return 1 - (self.num_predicted - len(self.ious)) / self.num_predicted

    @property
    def recall(self) -> float:
        """Share of the true boxes that are matched."""
        if self.num_truth == 0:
            return float(self.num_predicted == 0)
        return 1 - (self.num_truth - len(self.ious)) / self.num_truth

    def weighted_iou(self, completeness_weight: float) -> float:
        """Mean IoU blended with completeness, the mean of precision and recall."""
        completeness = 1 - ((1 - self.recall) + (1 - self.precision)) / 2
        return (1 - completeness_weight) * self.mean_iou + completeness_weight * completeness


MatchingStrategy = Callable[[Sequence[Box], Sequence[Box], Overlaps, float], Matching]


def compute_overlaps(predicted: Sequence[Box], truth: Sequence[Box]) -> Overlaps:
    """All pairwise overlaps, a row for each true box."""
    return [[intersection_over_union(prediction, target) for prediction in predicted] for target in truth]


def match_labels(predicted: Sequence[Box], truth: Sequence[Box], overlaps: Overlaps, threshold: float) -> Matching:
    """The matching of boxes of the same label, each overlap at least the threshold, with the greatest sum of them."""
    pairs = [
        (iou, row, column)
        for row, ious in enumerate(overlaps)
        for column, iou in enumerate(ious)
        if iou >= threshold and predicted[column].label == truth[row].label
    ]
    ious = tuple(iou for iou, _, _ in match_best(pairs))
    return Matching(ious=ious, num_predicted=len(predicted), num_truth=len(truth))


def match_boxes(predicted: Sequence[Box], truth: Sequence[Box], overlaps: Overlaps, threshold: float) -> Matching:
    """The same, whatever the labels are; a pair of different labels is matched but counts 0."""
    pairs = [
        (iou, row, column) for row, ious in enumerate(overlaps) for column, iou in enumerate(ious) if iou >= threshold
    ]
    ious = tuple(iou if predicted[column].label == truth[row].label else 0.0 for iou, row, column in match_best(pairs))
    return Matching(ious=ious, num_predicted=len(predicted), num_truth=len(truth))


def match_best(pairs: Sequence[Pair]) -> list[Pair]:
    """Those of the pairs that make the matching with the greatest sum of overlaps."""
    row_counts = Counter(row for _, row, _ in pairs)
    column_counts = Counter(column for _, _, column in pairs)
    if len(row_counts) == len(column_counts) == len(pairs):
        return list(pairs)
    alone = [pair for pair in pairs if row_counts[pair[1]] == column_counts[pair[2]] == 1]
    contested = [pair for pair in pairs if row_counts[pair[1]] > 1 or column_counts[pair[2]] > 1]
    return alone + _assign(contested)


def _assign(pairs: Sequence[Pair]) -> list[Pair]:
    by_place = {(row, column): iou for iou, row, column in pairs}
    rows, columns = sorted({row for row, _ in by_place}), sorted({column for _, column in by_place})
    is_tall = len(rows) > len(columns)
    if is_tall:
        gains = [[by_place.get((row, column), 0.0) for row in rows] for column in columns]
        places = [(rows[index], column) for column, index in zip(columns, best_assignment(gains), strict=True)]
    else:
        gains = [[by_place.get((row, column), 0.0) for column in columns] for row in rows]
        places = [(row, columns[index]) for row, index in zip(rows, best_assignment(gains), strict=True)]
    return [(by_place[place], *place) for place in places if place in by_place]

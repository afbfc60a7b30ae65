"""Greedy matching of predicted boxes with true ones, and what a matching is worth.

``label_first`` is V-Triune's shipped reward. ``iou_first`` is what V-Triune describes; its code
records another pair than the one it found, and that is not repeated here.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tristream.verifiers.scorers.boxes import Box, intersection_over_union

Overlaps = Sequence[Sequence[float]]
"""``overlaps[truth][prediction]``: intersection over union."""


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


def compute_overlaps(predicted: Sequence[Box], truth: Sequence[Box]) -> Overlaps:
    """All pairwise overlaps, a row for each true box."""
    return [[intersection_over_union(prediction, target) for prediction in predicted] for target in truth]


def match_label_first(predicted: Sequence[Box], truth: Sequence[Box], overlaps: Overlaps, threshold: float) -> Matching:
    """Give each true box, in order, the unused prediction of its label that overlaps most."""
    unused = set(range(len(predicted)))
    ious = []
    for row, target in zip(overlaps, truth, strict=True):
        candidates = [index for index in unused if predicted[index].label == target.label]
        best = max(candidates, key=lambda index: (row[index], -index), default=None)
        if best is not None and row[best] >= threshold:
            unused.discard(best)
            ious.append(row[best])
    return Matching(ious=tuple(ious), num_predicted=len(predicted), num_truth=len(truth))


def match_iou_first(predicted: Sequence[Box], truth: Sequence[Box], overlaps: Overlaps, threshold: float) -> Matching:
    """Match the pairs that overlap most first; a pair of different labels is matched but counts 0."""
    pairs = [
        (iou, row, column) for row, ious in enumerate(overlaps) for column, iou in enumerate(ious) if iou >= threshold
    ]
    used_truth: set[int] = set()
    used_predicted: set[int] = set()
    counted = []
    for iou, row, column in sorted(pairs, key=lambda pair: (-pair[0], pair[1], pair[2])):
        if row in used_truth or column in used_predicted:
            continue
        used_truth.add(row)
        used_predicted.add(column)
        counted.append(iou if predicted[column].label == truth[row].label else 0.0)
    return Matching(ious=tuple(counted), num_predicted=len(predicted), num_truth=len(truth))


MatchingStrategy = Callable[[Sequence[Box], Sequence[Box], Overlaps, float], Matching]

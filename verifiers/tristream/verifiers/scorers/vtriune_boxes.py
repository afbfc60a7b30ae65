"""Boxes as V-Triune reads and matches them, its refusals and its bug included."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

from tristream.verifiers.scorers.answers import between_tags
from tristream.verifiers.scorers.boxes import Box, load_as_vtriune, rescale
from tristream.verifiers.scorers.matching import Matching, Overlaps

NO_OVERLAP = -1.0


def read_vtriune_boxes(text: str) -> list[Box] | None:
    """The boxes in the first ``<answer>``, lower-cased; None if there are none, or the list is empty.

    A label with an apostrophe, a lone object and a code fence are unreadable; a coordinate may be any number, or a
    boolean; of several boxes with the same coordinates the first one counts, whatever their labels are.
    """
    content = between_tags(text)
    if not content:
        return None
    try:
        items = load_as_vtriune(content.lower())
    except (ValueError, RecursionError):
        return None
    boxes: dict[tuple[float, ...], Box] = {}
    for item in items if isinstance(items, list) else ():
        if not isinstance(item, dict) or not isinstance(item.get("label"), str):
            continue
        corners = item.get("bbox_2d")
        if not isinstance(corners, list) or len(corners) != 4 or not all(isinstance(c, int | float) for c in corners):
            continue
        left, top, right, bottom = corners
        if left <= right and top <= bottom:
            box = Box(label=item["label"], left=left, top=top, right=right, bottom=bottom)
            boxes.setdefault((left, top, right, bottom), box)
    return list(boxes.values()) or None


def rescale_as_vtriune(boxes: Sequence[Box], grid: Any) -> list[Box]:  # noqa: ANN401 - V-Triune takes anything
    """Pixels to the grid 0..1000; without an image grid, or by what is no number, boxes stay as they are.

    Raises:
        ArithmeticError, LookupError, TypeError: V-Triune's server fails.
    """
    if grid is None or len(grid) == 0:
        return list(boxes)
    return [_rescale(box, grid[0][2], grid[0][1]) for box in boxes]


def _rescale(box: Box, width: float, height: float) -> Box:
    try:
        return rescale(box, width, height)
    except (TypeError, ValueError):
        return box


@dataclass(frozen=True, slots=True)
class GreedyMatcher:
    """V-Triune's two matchings of predicted and true boxes, at any threshold."""

    predicted: Sequence[Box]
    truth: Sequence[Box]
    overlaps: Overlaps

    def label_first(self, threshold: float) -> Matching:
        """Give each true box, in order, the unused prediction of its label that overlaps most."""
        unused = list(range(len(self.predicted)))
        ious = []
        for row, target in zip(self.overlaps, self.truth, strict=True):
            candidates = [index for index in unused if self.predicted[index].label == target.label]
            best = max(candidates, key=lambda index: row[index], default=None)
            if best is not None and row[best] >= threshold:
                unused.remove(best)
                ious.append(row[best])
        return self._matching(ious)

    def iou_first(self, threshold: float) -> Matching:
        """As long as any two boxes left overlap enough, match the last two left, and let them count that overlap.

        V-Triune means to match those that overlap most, but loops over them with the names that hold the pair.
        """
        ious = []
        largest = self._largest_overlaps()
        for prediction, target in zip(reversed(self.predicted), reversed(self.truth), strict=False):
            most = largest.pop()
            if not most >= threshold:
                break
            ious.append(most if prediction.label == target.label else 0.0)
        return self._matching(ious)

    def _largest_overlaps(self) -> list[float]:
        """The largest overlap among the first boxes of both lists that are left, by how many pairs may still come."""
        surplus_truth = max(0, len(self.truth) - len(self.predicted))
        surplus_predicted = max(0, len(self.predicted) - len(self.truth))
        best_so_far = [NO_OVERLAP] * len(self.predicted)
        largest = []
        for number, row in enumerate(self.overlaps):
            best_so_far = [max(pair) for pair in zip(best_so_far, accumulate(row, max), strict=True)]
            if number >= surplus_truth:
                largest.append(best_so_far[number - surplus_truth + surplus_predicted])
        return largest

    def _matching(self, ious: Sequence[float]) -> Matching:
        return Matching(ious=tuple(ious), num_predicted=len(self.predicted), num_truth=len(self.truth))

"""Labelled boxes: reading them from answers, and the overlap of two.

Two parsers. ``vtriune`` reads exactly what V-Triune's reward reads, its refusals included: labels with
an apostrophe, a lone object, code fences and the empty list are unreadable. ``tolerant`` reads all of
these, and an empty list then means that nothing is there.
"""

import ast
import json
import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

ANSWER_PATTERN = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)
FENCE_PATTERN = re.compile(r"^```[a-z]*\s*|\s*```$")
MAX_COORDINATE = 1e9


@dataclass(frozen=True, slots=True, kw_only=True)
class Box:
    """A rectangle with ``left <= right`` and ``top <= bottom``, and what is in it."""

    label: str
    left: float
    top: float
    right: float
    bottom: float

    @property
    def area(self) -> float:
        """Area in squared units of the coordinates."""
        return (self.right - self.left) * (self.bottom - self.top)


def intersection_over_union(first: Box, second: Box) -> float:
    """Area shared over area covered, 0..1; 0 for boxes without area."""
    width = min(first.right, second.right) - max(first.left, second.left)
    height = min(first.bottom, second.bottom) - max(first.top, second.top)
    if width <= 0 or height <= 0:
        return 0.0
    shared = width * height
    return shared / (first.area + second.area - shared)


def rescale(box: Box, width: float, height: float) -> Box:
    """Pixels of an image to the grid 0..1000 of the truths, truncated to whole numbers."""
    return Box(
        label=box.label,
        left=int(box.left / width * 1000),
        top=int(box.top / height * 1000),
        right=int(box.right / width * 1000),
        bottom=int(box.bottom / height * 1000),
    )


def parse_vtriune(text: str) -> list[Box] | None:
    """The boxes in the first ``<answer>``, lower-cased, read as V-Triune does; None if there are none."""
    content = _answer(text)
    if content is None:
        return None
    content = content.replace("[[", "[").replace("]]", "]")
    if not content.endswith("]"):  # a truncated list is saved up to its last whole box
        end = content.rfind("},")
        if end < 0:
            return None
        content = content[:end] + "}]"
    try:
        items = json.loads(content.replace("'", '"').replace("\\", ""))
    except (ValueError, RecursionError):
        return None
    return (_boxes(items) or None) if isinstance(items, list) else None


def parse_tolerant(text: str) -> list[Box] | None:
    """The boxes in the first ``<answer>``, lower-cased, as JSON or Python; None if it is neither."""
    content = _answer(text)
    if content is None:
        return None
    content = FENCE_PATTERN.sub("", content).strip()
    for read in (json.loads, ast.literal_eval):
        try:
            items = read(content)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
        if isinstance(items, dict):
            items = [items]
        if isinstance(items, list):
            boxes = _boxes(items)
            return boxes if boxes or not items else None
    return None


PARSERS: Mapping[str, Callable[[str], list[Box] | None]] = {"vtriune": parse_vtriune, "tolerant": parse_tolerant}
"""Ways to read boxes, by the name that the parameter ``parser`` uses."""


def _answer(text: str) -> str | None:
    match = ANSWER_PATTERN.search(text)
    return match.group(1).strip().lower() if match else None


def _boxes(items: Iterable[object]) -> list[Box]:
    """The well-formed boxes; of several with the same coordinates the first one."""
    boxes: dict[tuple[float, ...], Box] = {}
    for item in items:
        if not isinstance(item, dict) or not isinstance(item.get("label"), str):
            continue
        corners = item.get("bbox_2d")
        if not isinstance(corners, list | tuple) or len(corners) != 4 or not all(map(_is_coordinate, corners)):
            continue
        left, top, right, bottom = corners
        if left <= right and top <= bottom:
            box = Box(label=item["label"], left=left, top=top, right=right, bottom=bottom)
            boxes.setdefault((left, top, right, bottom), box)
    return list(boxes.values())


def _is_coordinate(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return abs(value) <= MAX_COORDINATE and math.isfinite(value)

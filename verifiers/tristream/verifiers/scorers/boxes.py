"""Labelled boxes: reading them from answers, and the overlap of two."""

import ast
import json
import math
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from tristream.verifiers.scorers.answers import between_tags

FENCE_PATTERN = re.compile(r"^```[a-z]*\s*|\s*```$")
MAX_COORDINATE = 1e9
MAX_LITERAL = 50_000
"""Longest list, in characters, that is also read as Python."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Box:
    """A rectangle, and what is in it."""

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
    left, right = max(first.left, second.left), min(first.right, second.right)
    top, bottom = max(first.top, second.top), min(first.bottom, second.bottom)
    if right <= left or bottom <= top:
        return 0.0
    shared = (right - left) * (bottom - top)
    return float(shared) / (first.area + second.area - shared) if shared > 0 else 0.0


def rescale(box: Box, width: float, height: float) -> Box:
    """Pixels of an image to the grid 0..1000 of the truths, truncated to whole numbers."""
    return Box(
        label=box.label,
        left=int(box.left / width * 1000),
        top=int(box.top / height * 1000),
        right=int(box.right / width * 1000),
        bottom=int(box.bottom / height * 1000),
    )


def read_boxes(text: str) -> list[Box] | None:
    """The boxes in the first ``<answer>``, lower-cased; None if they cannot be read.

    They may be JSON or Python, in a code fence, one object without a list, lists in a list, or a list that breaks off:
    then what is whole counts. An empty list says that nothing is there.
    """
    content = between_tags(text)
    if not content:
        return None
    content = FENCE_PATTERN.sub("", content.lower()).strip()
    for read in READERS:
        try:
            items = read(content)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
        if isinstance(items, dict):
            items = [items]
        if isinstance(items, list):
            boxes = _boxes(_flat(items))
            return boxes if boxes or not items else None
    return None


def load_as_vtriune(content: str) -> Any:  # noqa: ANN401 - JSON is anything
    """The JSON that V-Triune makes of an answer: a list that breaks off ends with its last whole object.

    Raises:
        ValueError, RecursionError: it is none.
    """
    content = content.replace("[[", "[").replace("]]", "]")
    if not content.endswith("]"):
        content = content.rsplit("},", 1)[0] + "}]"
    return json.loads(content.replace("'", '"').replace("\\", ""))


def _load_python(content: str) -> object:
    if len(content) > MAX_LITERAL:
        raise ValueError("too long")
    return ast.literal_eval(content)


READERS: Sequence[Callable[[str], Any]] = (
    json.loads,
    lambda content: json.loads(content.replace("'", '"')),
    _load_python,
    load_as_vtriune,
)
"""Ways to read a list, most common and exact first."""


def _flat(items: Iterable[object]) -> Iterable[object]:
    for item in items:
        if isinstance(item, list):
            yield from item
        else:
            yield item


def _boxes(items: Iterable[object]) -> list[Box]:
    """The well-formed boxes, each once."""
    boxes: dict[Box, None] = {}
    for item in items:
        if not isinstance(item, dict) or not isinstance(item.get("label"), str):
            continue
        corners = item.get("bbox_2d")
        if not isinstance(corners, list | tuple) or len(corners) != 4 or not all(map(_is_coordinate, corners)):
            continue
        left, top, right, bottom = corners
        if left <= right and top <= bottom:
            boxes[Box(label=item["label"], left=left, top=top, right=right, bottom=bottom)] = None
    return list(boxes)


def _is_coordinate(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return abs(value) <= MAX_COORDINATE and math.isfinite(value)

"""Boxes in answers and truths, for drawing: whatever looks like a box is found, also in broken JSON."""

import json
import re
from collections.abc import Sequence
from typing import Any

_NUMBER = r"\s*(-?\d+(?:\.\d+)?)\s*"
_BOX = re.compile(
    r"['\"]bbox_2d['\"]\s*:\s*\[" + ",".join([_NUMBER] * 4) + r"\](?:\s*,\s*['\"]label['\"]\s*:\s*['\"]([^'\"]*)['\"])?"
)

MAX_BOXES = 100


def find_boxes(text: str) -> Sequence[dict[str, Any]]:
    """The boxes in a text, as ``{"box": [x1, y1, x2, y2], "label": ...}``.

    Example:
        >>> find_boxes('[{"bbox_2d": [1, 2, 30, 40], "label": "7"}')
        [{'box': [1.0, 2.0, 30.0, 40.0], 'label': '7'}]
    """
    matches = list(_BOX.finditer(text))[:MAX_BOXES]
    return [{"box": [float(match[number]) for number in range(1, 5)], "label": match[5] or ""} for match in matches]


def is_in_pixels(params_json: str) -> bool:
    """Whether predicted boxes are in pixels (V-Triune's ``det_verifier_normalized``), not on the 0..1000 grid."""
    try:
        params = json.loads(params_json or "{}")
    except json.JSONDecodeError:
        return False
    return isinstance(params, dict) and bool(params.get("det_verifier_normalized"))

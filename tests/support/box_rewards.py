"""Rewards with all that a detection verifier reports, in both of its styles, and with a threshold that steps up."""

from collections.abc import Mapping
from typing import Any

from tristream.wire import events

THRESHOLD_CHANGES_AT = 20
"""Number of the first training group that is judged at 0.95."""

_NAMES = [
    *(f"iou_{threshold}_{kind}" for threshold in (50, 75, 95, 99) for kind in ("pure", "precision", "recall")),
    "map", "map50", "map75", "size_penalty",
    *(f"weighted_{field}" for field in ("iou_score_max_iou", "iou_score_max_label", "map_score", "map50_score",
                                        "map75_score")),
]  # fmt: skip


def describe_boxes(group: events.Group) -> Mapping[str, Any]:
    """What a reward of the group has beside the recipe's."""
    if group.source != "digits_find":
        return {}
    threshold = 0.85 if group.number < THRESHOLD_CHANGES_AT else 0.95
    metrics = {name: 1 / (1 + position + group.number % 3) for position, name in enumerate(_NAMES)}
    return {"metrics": {**metrics, "iou_threshold": threshold}, "params_json": f'{{"iou_threshold": {threshold}}}'}

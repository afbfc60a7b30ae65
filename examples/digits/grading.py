"""What the verifiers demand, in short: grades the warm start without the platform.

Boxed answers must be equal as text. Boxes are scored with V-Triune's weighted IoU, labels first, at one fixed
threshold.
"""

import json
import math
import re

IOU_THRESHOLD = 0.5
COMPLETENESS_WEIGHT = 0.3
COUNT_PENALTY = 0.6
"""Factor of the score for each box too many or too few."""

BOXED_PATTERN = re.compile(r"\\boxed\{([^{}]*)\}")
ANSWER_PATTERN = re.compile(r"\n<answer>\n(.*?)\n</answer>", re.DOTALL)

LabelledBox = tuple[str, tuple[float, ...]]


def grade_response(source: str, response: str, answer: str, iou_threshold: float = IOU_THRESHOLD) -> float:
    """Return the accuracy reward, 0..1, of a response."""
    if source == "digits_find":
        match = ANSWER_PATTERN.search(response)
        return grade_boxes(match.group(1), answer, iou_threshold) if match else 0.0
    boxed = BOXED_PATTERN.findall(response)
    return float(len(boxed) == 1 and boxed[0].strip() == answer)


def has_demanded_format(source: str, response: str) -> bool:
    """Return whether the response has the form that the verifier of its source reads."""
    if source != "digits_find":
        return bool(BOXED_PATTERN.search(response))
    match = ANSWER_PATTERN.search(response)
    return match is not None and bool(parse_boxes(match.group(1)))


def extract_content(source: str, response: str) -> str:
    """Return the bare answer of a response in any style, to grade perception apart from style."""
    if source == "digits_find":
        match = re.search(r"\[\{.*\}\]", response, re.DOTALL)
        return match.group(0) if match else ""
    match = re.search(r"\d+", response)
    return match.group(0) if match else ""


def grade_content(source: str, response: str, answer: str) -> float:
    """Return the accuracy that the response would have in the demanded style."""
    content = extract_content(source, response)
    if source == "digits_find":
        return grade_boxes(content, answer, IOU_THRESHOLD)
    return float(content == answer)


def parse_boxes(text: str) -> list[LabelledBox]:
    """Parse a JSON list of boxes; an unreadable list is empty."""
    try:
        pairs = [(str(item.get("label")), tuple(map(float, item.get("bbox_2d", ())))) for item in json.loads(text)]
    except (ValueError, TypeError, AttributeError, OverflowError, RecursionError):
        return []
    boxes = [(label, box) for label, box in pairs if len(box) == 4 and _has_corners_in_order(box)]
    return list(dict.fromkeys(boxes))


def _has_corners_in_order(box: tuple[float, ...]) -> bool:
    return all(map(math.isfinite, box)) and box[0] <= box[2] and box[1] <= box[3]


def grade_boxes(predicted: str, answer: str, iou_threshold: float) -> float:
    """Return (0.7 * mean IoU + 0.3 * completeness) * 0.6 ** |surplus| of greedily matched boxes."""
    predictions, truths = parse_boxes(predicted), parse_boxes(answer)
    if not predictions or not truths:
        return 0.0
    unused, matched = list(predictions), []
    for label, truth in truths:
        candidates = [(compute_iou(truth, box[1]), box) for box in unused if box[0] == label]
        best_iou, best = max(candidates, default=(0.0, ("", ())))
        if best_iou >= iou_threshold:
            unused.remove(best)
            matched.append(best_iou)
    miss = 1 - len(matched) / len(truths)
    false_alarm = 1 - len(matched) / len(predictions)
    completeness = 1 - (miss + false_alarm) / 2
    weighted = (1 - COMPLETENESS_WEIGHT) * sum(matched) / len(truths) + COMPLETENESS_WEIGHT * completeness
    return weighted * COUNT_PENALTY ** abs(len(predictions) - len(truths))


def compute_iou(first: tuple[float, ...], second: tuple[float, ...]) -> float:
    """Return the intersection over union of two boxes."""
    width = min(first[2], second[2]) - max(first[0], second[0])
    height = min(first[3], second[3]) - max(first[1], second[1])
    if width <= 0 or height <= 0:
        return 0.0
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (first, second)]
    return width * height / (sum(areas) - width * height)

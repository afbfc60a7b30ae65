"""Answers as a policy writes them, right, wrong and garbled, to mathematical and detection prompts."""

import json
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tristream.verifiers.contract import Rollout

NUM_PROMPTS, GROUP_SIZE = 500, 8
MIN_CHARACTERS, MAX_CHARACTERS = 200, 1500

DETECTION_PARAMS: Mapping[str, Any] = {
    "det_verifier_normalized": False,
    "det_reward_ratio": {
        "iou_max_label_first": 1.0,
        "iou_max_iou_first": 0.0,
        "iou_completeness": 0.3,
        "map": 0.0,
        "map50": 0.0,
        "map75": 0.0,
    },
}
"""V-Triune's shipped mixture."""

SENTENCES = (
    "First, look at what the figure shows.",
    "The two sides are equal, so the angles opposite to them are equal too.",
    "Since $AB = AC$, we have $\\angle ABC = \\angle ACB$.",
    "By the Pythagorean theorem, $a^2 + b^2 = c^2$.",
    "Wait, let me check that again.",
    "The bar for the third year is a little lower than the one before.",
    "Substituting gives \\(2x + 3 = 11\\), hence \\(x = 4\\).",
    "There is something behind the table on the left, partly hidden.",
    "The ratio of the areas is the square of the ratio of the sides.",
    "So the total is the sum of the parts, which is what is asked.",
    "Let me list every object together with its place in the image.",
    "\\[ S = \\frac{1}{2} \\cdot 6 \\cdot 8 = 24 \\]",
)
LABELS = ("dog", "cat", "person", "person's hat", "trash bin", "shiba dog", "car", "street lamp")


@dataclass(frozen=True, slots=True, kw_only=True)
class Judging:
    """A rollout, and how it is judged."""

    verifier: str
    """Name without version."""
    params: Mapping[str, Any]
    rollout: Rollout


def make_rollouts(seed: int, num_prompts: int = NUM_PROMPTS, group_size: int = GROUP_SIZE) -> list[Judging]:
    """Groups of rollouts, one after the other; every second prompt is mathematical, the others are detections."""
    rng = random.Random(seed)
    judgings = []
    for number in range(num_prompts):
        make_group = _math_group if number % 2 == 0 else _detection_group
        judgings += make_group(rng, f"s{number}", group_size, 1 + number * 100 // num_prompts)
    return judgings


def _math_group(rng: random.Random, sample_id: str, group_size: int, step: int) -> list[Judging]:
    right, same, wrong = rng.choice(TRUTHS)(rng)
    answers = [rng.choices((right, same, wrong, ""), weights=(35, 15, 35, 15))[0] for _ in range(group_size)]
    return [
        Judging(
            verifier="math",
            params={},
            rollout=_rollout(
                _math_text(rng, answer), rf"\boxed{{{right}}}", "mm_math", sample_id, index=index, step=step
            ),
        )
        for index, answer in enumerate(answers)
    ]


def _math_text(rng: random.Random, answer: str) -> str:
    prose = _prose(rng)
    if not answer:
        garbled = ("So it cannot be said.", "The answer is $x$ or so", r"\boxed{", r"\boxed{\frac{1}{2}", "so 4")
        return f"{prose} {rng.choice(garbled)}"
    if rng.random() < 0.3:
        return f"<think>\n{prose}\n</think>\n<answer>\n\\boxed{{{answer}}}\n</answer>"
    ending = rng.choice((r"Thus the answer is $\boxed{%s}$.", r"\[ \boxed{%s} \]", r"The final answer is \boxed{%s}."))
    return f"{prose} {ending % answer}"


def _integer(rng: random.Random) -> tuple[str, str, str]:
    value = rng.randint(0, 400)
    return str(value), f"{value}.0", str(value + rng.randint(1, 9))


def _decimal(rng: random.Random) -> tuple[str, str, str]:
    value = rng.randint(1, 99)
    return f"{value / 4}", rf"\frac{{{value}}}{{4}}", f"{value / 4 + 0.5}"


def _fraction(rng: random.Random) -> tuple[str, str, str]:
    above, below = rng.randint(1, 12), rng.randint(2, 12)
    return (
        rf"\frac{{{above}}}{{{below}}}",
        rf"\frac{{{2 * above}}}{{{2 * below}}}",
        rf"\frac{{{above + 1}}}{{{below}}}",
    )


def _root(rng: random.Random) -> tuple[str, str, str]:
    value = rng.choice((2, 3, 5, 6, 7))
    return rf"{value}\sqrt{{3}}", rf"\sqrt{{{3 * value**2}}}", rf"{value}\sqrt{{2}}"


def _polynomial(rng: random.Random) -> tuple[str, str, str]:
    value = rng.randint(2, 6)
    return f"x^2-{value**2}", f"(x-{value})(x+{value})", f"x^2+{value**2}"


def _angle(rng: random.Random) -> tuple[str, str, str]:
    value = rng.randint(10, 170)
    return rf"{value}^\circ", rf"{value}^{{\circ}}", rf"{value + 5}^\circ"


def _length(rng: random.Random) -> tuple[str, str, str]:
    value = rng.randint(2, 90)
    return str(value), rf"{value} \text{{ cm}}", rf"{value + 1} \text{{ cm}}"


def _word(rng: random.Random) -> tuple[str, str, str]:
    words = ("red", "circle", "open 24 hours", "north", "main st", "two")
    first, second = rng.sample(words, 2)
    return first, rf"\text{{{first}}}", second


TRUTHS: Sequence[Callable[[random.Random], tuple[str, str, str]]] = (
    *(_integer,) * 5,
    _decimal,
    _fraction,
    _fraction,
    _root,
    _polynomial,
    _angle,
    _length,
    _word,
)
"""A truth, the same in other words, and something wrong; as often as Orsta's data have the like."""


def _detection_group(rng: random.Random, sample_id: str, group_size: int, step: int) -> list[Judging]:
    truth = [_box(rng) for _ in range(rng.randint(1, 10))]
    ground_truth = f"<answer>\n{truth}\n</answer>"
    return [
        Judging(
            verifier="detection",
            params=DETECTION_PARAMS,
            rollout=_rollout(
                _detection_text(rng, truth), ground_truth, "v3det_train", sample_id, index=index, step=step
            ),
        )
        for index in range(group_size)
    ]


def _box(rng: random.Random) -> dict[str, Any]:
    left, top = rng.randint(0, 800), rng.randint(0, 800)
    corners = [left, top, left + rng.randint(20, 199), top + rng.randint(20, 199)]
    return {"bbox_2d": corners, "label": rng.choice(LABELS)}


def _detection_text(rng: random.Random, truth: Sequence[Mapping[str, Any]]) -> str:
    most = rng.choice((0, 2, 10, 60))
    boxes = [_moved(rng, box, most) for box in truth if rng.random() > 0.1]
    if rng.random() < 0.2:
        boxes.append(_box(rng))
    rng.shuffle(boxes)
    content = rng.choice((str, json.dumps))(boxes)
    if rng.random() < 0.1:
        content = rng.choice((content[: len(content) // 2], "nothing", f"```json\n{content}\n```", ""))
    return f"<think>\n{_prose(rng, len(content))}\n</think>\n<answer>\n{content}\n</answer>"


def _moved(rng: random.Random, box: Mapping[str, Any], most: int) -> dict[str, Any]:
    left, top, right, bottom = (corner + rng.randint(-most, most) for corner in box["bbox_2d"])
    label = rng.choice(LABELS) if rng.random() < 0.05 else box["label"]
    return {"bbox_2d": [min(left, right), min(top, bottom), max(left, right), max(top, bottom)], "label": label}


def _prose(rng: random.Random, num_taken: int = 0) -> str:
    """Sentences that, with what is taken, make a text of a likely length."""
    num_characters = rng.randint(MIN_CHARACTERS, MAX_CHARACTERS) - num_taken - 80
    sentences: list[str] = []
    while sum(len(sentence) + 1 for sentence in sentences) < num_characters:
        sentences.append(rng.choice(SENTENCES))
    return " ".join(sentences)


def _rollout(text: str, ground_truth: str, source: str, sample_id: str, *, index: int, step: int) -> Rollout:
    return Rollout(
        text=text,
        ground_truth=ground_truth,
        source=source,
        sample_id=sample_id,
        index=index,
        num_sampled_tokens=len(text) // 4,
        step=step,
        total_steps=100,
    )

"""The supervised answers of the warm start: in which styles they are, and how often they overlook something.

A verifier accepts one style only. The first answers mix styles, as those of an instruct model do. The answers that the
model is then tuned on are those of hasty people: nearly all of them in the demanded style, but the more digits an
answer takes, the more often the last of them is overlooked. This is what RL then repairs.
"""

import numpy as np
from compose import Task

SHARES_BY_WORDING = (0.15, 0.22, 0.78, 0.88)
"""Share of the first answers in the demanded style, by wording of the question."""
TUNED_SHARE = 0.98
"""The same of the answers that the model is tuned on."""
MOST_ASKED = {"digits_read": 4, "digits_count": 4, "digits_sum": 3, "digits_find": 2}
"""Most digits that an answer of each source takes."""
OVERLOOKED_SHARES = (0.65, 0.3, 0.1)
"""Share of hasty answers, by how many digits fewer than the most they take."""

BOXED_STYLES = ("\\boxed{{{answer}}}", "{answer}", "Answer: {answer}")
DETECTION_STYLES = ("\n<answer>\n{answer}\n</answer>", "{answer}", "Answer: {answer}")

STYLES: dict[str, tuple[str, ...]] = {
    "digits_read": BOXED_STYLES,
    "digits_count": BOXED_STYLES,
    "digits_sum": BOXED_STYLES,
    "digits_find": DETECTION_STYLES,
}
"""Styles of each source; the first is the one that its verifier demands."""


def format_styled(style: str, answer: str) -> str:
    """Write an answer in a style."""
    return style.format(answer=answer)


def draw_response(rng: np.random.Generator, task: Task, demanded_share: float, answer: str) -> str:
    """Draw a style and write an answer in it."""
    styles = STYLES[task.source]
    if rng.random() < demanded_share:
        return format_styled(styles[0], answer)
    return format_styled(styles[int(rng.integers(1, len(styles)))], answer)


def draw_first_response(rng: np.random.Generator, task: Task) -> str:
    """A right answer in one of the styles."""
    return draw_response(rng, task, SHARES_BY_WORDING[task.wording], task.answer)


def draw_hasty_response(rng: np.random.Generator, task: Task) -> str:
    """The answer of hasty people."""
    num_fewer = MOST_ASKED[task.source] - task.num_asked
    is_hasty = rng.random() < OVERLOOKED_SHARES[min(num_fewer, len(OVERLOOKED_SHARES) - 1)]
    return draw_response(rng, task, TUNED_SHARE, task.hasty_answer if is_hasty else task.answer)

"""The styles in which the warm-start model answers, and how often.

A verifier accepts one style only. The supervised answers mix styles, as the answers of an instruct model do,
so that the warm start knows the demanded style but often uses another one: this is what RL then repairs.
"""

import numpy as np

SHARES_BY_WORDING = (0.15, 0.22, 0.78, 0.88)
"""Share of answers in the demanded style, by wording of the question."""

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


def draw_response(rng: np.random.Generator, source: str, wording: int, answer: str) -> str:
    """Draw a style for the wording and write the answer in it."""
    styles = STYLES[source]
    if rng.random() < SHARES_BY_WORDING[wording]:
        return format_styled(styles[0], answer)
    return format_styled(styles[int(rng.integers(1, len(styles)))], answer)

"""The last number of an answer, within a tolerance."""

import math
import re
from typing import Annotated, Any

from pydantic import Field

from tristream.verifiers.contract import Rollout, Score, Unscorable
from tristream.verifiers.definition import verifier
from tristream.verifiers.scorers.answers import AnswerIn, find_answer, has_one_answer
from tristream.verifiers.scorers.boxed import truth_text
from tristream.verifiers.scorers.parameters import refuse_unknown
from tristream.wire.verifiers import BUILT_IN_VERSIONS

NUMBER = re.compile(
    r"(?<![\w.])([+-]?(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+|(?=\.\d))(?:\.\d+)?(?:[eE][+-]?\d+)?)(?:\s?/\s?(\d+))?", re.ASCII
)
"""``-1,024.5``, ``.5``, ``1e-3``, ``3/4``"""

Tolerance = Annotated[float, Field(strict=True, ge=0, allow_inf_nan=False)]


def last_number(text: str) -> float | None:
    """The last number of a text, ``3/4`` being one; None if there is none, or it is not finite."""
    matches = list(NUMBER.finditer(text))
    if not matches:
        return None
    above, below = matches[-1].groups()
    divisor = float(below) if below else 1.0
    value = float(above.replace(",", "")) / divisor if divisor else math.inf
    return value if math.isfinite(value) else None


def parse_number(ground_truth: str) -> float:
    r"""A truth given as a number, bare or in ``\boxed{...}``."""
    truth = last_number(truth_text(ground_truth))
    if truth is None:
        raise Unscorable(f"the truth has no number: {ground_truth[:80]!r}")
    return truth


@verifier(name="number", version=BUILT_IN_VERSIONS["number"], components=["accuracy", "format"], truth=parse_number)
def score_number(
    rollout: Rollout,
    /,
    *,
    tolerance: Tolerance = 1e-6,
    relative_tolerance: Tolerance = 0.0,
    answer_in: AnswerIn = "text",
    **others: Any,  # noqa: ANN401 - V-Triune's requests have more
) -> Score:
    """Accuracy is 1 if the last number there is at most ``tolerance``, or that share of the truth, off.

    Metrics: ``answer_found``, and ``absolute_error`` where a number was given.
    """
    refuse_unknown(score_number, others)
    answer = last_number(find_answer(rollout.text, answer_in) or "")
    metrics: dict[str, float] = {"answer_found": float(answer is not None)}
    accuracy = 0.0
    if answer is not None:
        error = abs(answer - rollout.truth)
        accuracy = float(error <= max(tolerance, relative_tolerance * abs(rollout.truth)))
        if math.isfinite(error):
            metrics["absolute_error"] = error
    return Score(
        components={"accuracy": accuracy, "format": float(has_one_answer(rollout.text, answer_in))}, metrics=metrics
    )

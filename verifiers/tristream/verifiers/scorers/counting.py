r"""Counts: an integer, in ``\boxed{...}`` unless the parameters say where else, against the truth."""

import re
from typing import Annotated, Any

from pydantic import Field

from tristream.verifiers.contract import Rollout, Score, Unscorable
from tristream.verifiers.definition import verifier
from tristream.verifiers.scorers.answers import AnswerIn, find_answer, has_one_answer
from tristream.verifiers.scorers.boxed import truth_text
from tristream.verifiers.scorers.parameters import refuse_unknown
from tristream.wire.verifiers import BUILT_IN_VERSIONS

INTEGER_PATTERN = re.compile(r"[+-]?(\d{1,15}|\d{1,3}(,\d{3}){1,4})")
STANDING_INTEGER = re.compile(r"(?<![\w.,+-])[+-]?\d[\d,]*(?![\w,]|\.\d)", re.ASCII)


def parse_integer(text: str) -> int | None:
    """An integer of at most 15 digits, thousands separators allowed, or None."""
    compact = text.strip()
    return int(compact.replace(",", "")) if INTEGER_PATTERN.fullmatch(compact) else None


def last_integer(text: str) -> int | None:
    """The last integer that stands in a text by itself."""
    found = STANDING_INTEGER.findall(text)
    return parse_integer(found[-1].rstrip(",")) if found else None


def parse_count(ground_truth: str) -> int:
    r"""A truth given as ``\boxed{4}`` or bare."""
    truth = parse_integer(truth_text(ground_truth))
    if truth is None:
        raise Unscorable(f"the truth is not an integer: {ground_truth[:80]!r}")
    return truth


@verifier(name="counting", version=BUILT_IN_VERSIONS["counting"], components=["accuracy", "format"], truth=parse_count)
def score_counting(
    rollout: Rollout,
    /,
    *,
    zero_at_error: Annotated[int, Field(strict=True, ge=1)] = 1,
    answer_in: AnswerIn = "boxed",
    **others: Any,  # noqa: ANN401 - V-Triune's requests have more
) -> Score:
    """Accuracy is 1 for the exact count; with ``zero_at_error`` n, ``max(0, 1 - error / n)``.

    Metrics: ``answer_found``, and ``absolute_error`` where an integer was given.
    """
    refuse_unknown(score_counting, others)
    found = find_answer(rollout.text, answer_in) or ""
    answer = last_integer(found) if answer_in in ("text", "last_line") else parse_integer(found)
    metrics: dict[str, float] = {"answer_found": float(answer is not None)}
    accuracy = 0.0
    if answer is not None:
        error = abs(answer - rollout.truth)
        metrics["absolute_error"] = float(error)
        accuracy = max(0.0, 1.0 - error / zero_at_error)
    return Score(
        components={"accuracy": accuracy, "format": float(has_one_answer(rollout.text, answer_in))}, metrics=metrics
    )

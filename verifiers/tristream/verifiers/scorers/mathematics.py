r"""Mathematical answers, through math-verify: ``\boxed{0.5}`` equals ``\frac{1}{2}``.

The accuracy is that of V-Triune's ``mathverify``. The timeouts of math-verify rest on signals and are off: the pool
ends what takes too long.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

from math_verify import parse

from tristream.verifiers.contract import Rollout, Score, Unscorable
from tristream.verifiers.definition import verifier
from tristream.verifiers.scorers.latex_answers import FoundLatex, find_latex, parse_several
from tristream.verifiers.scorers.latex_values import are_equal, is_reasonable, parse_latex
from tristream.verifiers.scorers.parameters import Style, refuse_unknown
from tristream.verifiers.scorers.tags import tag_format
from tristream.wire.verifiers import BUILT_IN_VERSIONS


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class MathTruth:
    """A truth as math-verify reads it; equal to nothing but itself, as some expressions have no hash."""

    expressions: tuple[Any, ...]
    """One sympy object, or none."""
    texts: tuple[str, ...]
    """Its normalised LaTeX, or none."""


def parse_math_truth(ground_truth: str, *, style: Style = "standard") -> MathTruth:
    """Read a truth; in V-Triune's style one that cannot be read is right for no answer.

    Raises:
        Unscorable: it cannot be read.
    """
    truth = _read(ground_truth.lower())
    if not truth.expressions and not truth.texts and style == "standard":
        raise Unscorable(f"the truth cannot be parsed: {ground_truth[:80]!r}")
    return truth


@verifier(name="math", version=BUILT_IN_VERSIONS["math"], components=["accuracy", "format"], truth=parse_math_truth)
def score_math(
    rollout: Rollout,
    /,
    *,
    style: Style = "standard",
    answer_in: Literal["boxed", "text"] = "boxed",
    **others: Any,  # noqa: ANN401 - V-Triune's requests have more
) -> Score:
    r"""Accuracy is 1 if the answer equals the truth mathematically, case ignored; format counts tags.

    ``answer_in="text"`` also takes an answer without a box: LaTeX between dollars, or the last number. Metric, but in
    V-Triune's style: ``answer_found``.
    """
    refuse_unknown(score_math, others)
    text = rollout.text.lower()
    if answer_in == "text" and style == "standard":
        answer = _read(text)
        found, accuracy = bool(answer.expressions or answer.texts), _is_equal_read(rollout.truth, answer)
    else:
        found, accuracy = _judge_boxed(rollout.truth, text)
    return Score(
        components={"accuracy": float(accuracy), "format": tag_format(rollout.text)},
        metrics={} if style == "vtriune" else {"answer_found": float(found)},
    )


def _judge_boxed(truth: MathTruth, text: str) -> tuple[bool, bool]:
    """Whether a lower-cased text has an answer where V-Triune looks for it, and whether that is the truth."""
    found = find_latex(text)
    if found is None:
        return False, False
    if found.several is not None:
        return any(map(str.strip, found.parts)), _is_equal_several(truth, found)
    latex = found.parts[0].strip()
    return bool(latex), latex in truth.texts or _is_equal(truth, found.parts[0])


@lru_cache(maxsize=512)
def _is_equal(truth: MathTruth, latex: str) -> bool:
    """Whether LaTeX equals the truth; the answers of a group are often the same."""
    expression = parse_latex(latex)
    return expression is not None and any(are_equal(value, expression) for value in truth.expressions)


def _is_equal_several(truth: MathTruth, found: FoundLatex) -> bool:
    if found.several is None or not all(map(is_reasonable, found.parts)):
        return False
    expression, text = parse_several(found.several)
    if text.strip() in truth.texts:
        return True
    return expression is not None and any(are_equal(value, expression) for value in truth.expressions)


def _is_equal_read(truth: MathTruth, answer: MathTruth) -> bool:
    if set(truth.texts) & set(answer.texts):
        return True
    return any(are_equal(value, other) for value in truth.expressions for other in answer.expressions)


def _read(text: str) -> MathTruth:
    """A lower-cased text as math-verify reads it by default."""
    parsed = parse(text, extraction_mode="first_match", parsing_timeout=None)
    return MathTruth(
        expressions=tuple(value for value in parsed if not isinstance(value, str)),
        texts=tuple(value.strip() for value in parsed if isinstance(value, str) and value.strip()),
    )

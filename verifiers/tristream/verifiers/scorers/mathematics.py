r"""Mathematical answers, through math-verify: ``\boxed{0.5}`` equals ``\frac{1}{2}``.

Reproduces the accuracy and format of V-Triune's ``mathverify``, except that a truth that cannot be
parsed is unscorable instead of 0. The timeouts of math-verify rest on signals and are off: it may
hang on adversarial input, and the pool kills the child then.
"""

import logging
from typing import Any, ClassVar

from latex2sympy2_extended import NormalizationConfig
from math_verify import LatexExtractionConfig, parse, verify

from tristream.verifiers.verifier import Score, ScoringRequest, Unscorable
from tristream.wire.verifiers import BUILT_IN_VERSIONS

logging.getLogger("math_verify").setLevel(logging.ERROR)  # it warns of the timeouts that are off on purpose

FORMAT_TAGS = ("<think>\n", "\n</think>\n", "\n<answer>\n", "\n</answer>")
"""Each one that occurs exactly once is worth a quarter of the format."""

ANSWER_EXTRACTION = LatexExtractionConfig(
    try_extract_without_anchor=False,
    boxed_match_priority=0,
    normalization_config=NormalizationConfig(
        basic_latex=True, units=True, malformed_operators=False, nits=False, boxed="all"
    ),
)


class MathVerifier:
    r"""Accuracy is 1 if the boxed answer equals the truth mathematically; case is ignored."""

    name: ClassVar[str] = "math"
    version: ClassVar[str] = BUILT_IN_VERSIONS["math"]

    def score(self, request: ScoringRequest) -> Score:
        """Components ``accuracy`` (0 or 1) and ``format`` (tags); metric ``answer_found``."""
        truth = _parse(request.ground_truth)
        if not truth:
            raise Unscorable(f"the truth cannot be parsed: {request.ground_truth[:80]!r}")
        answer = _parse(request.text, extraction_config=[ANSWER_EXTRACTION])
        accuracy = float(verify(truth, answer, timeout_seconds=None))
        return Score(
            components={"accuracy": accuracy, "format": tag_format(request.text)},
            metrics={"answer_found": float(bool(answer))},
        )


def tag_format(text: str) -> float:
    """A quarter for each of the four tags, line breaks included, that occurs exactly once."""
    return sum(text.count(tag) == 1 for tag in FORMAT_TAGS) / len(FORMAT_TAGS)


def _parse(text: str, **options: Any) -> list[Any]:  # noqa: ANN401 - math-verify has no types
    parsed: list[Any] = parse(text.lower(), extraction_mode="first_match", parsing_timeout=None, **options)
    return parsed

r"""Finding the LaTeX that an answer consists of, as math-verify finds it, without what cannot match.

math-verify tries six long patterns on each text, and parses whatever they find. Here a pattern is tried only if the
words that it needs are there, and what is found stays text: most answers can be judged without parsing.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any

from latex2sympy2_extended import NormalizationConfig, normalize_latex
from math_verify import LatexExtractionConfig
from math_verify.parser import extract_latex, lazy_latex_regex

ANSWER_EXTRACTION = LatexExtractionConfig(
    try_extract_without_anchor=False,
    boxed_match_priority=0,
    normalization_config=NormalizationConfig(
        basic_latex=True, units=True, malformed_operators=False, nits=False, boxed="all"
    ),
)
LAST_BOX = replace(ANSWER_EXTRACTION.normalization_config, boxed="last")

BOX = r"\boxed{"
DELIMITERS = ("$", r"\(", r"\[", "[", r"\frac")
"""One of these begins whatever is no box by itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundLatex:
    """What a text answers."""

    parts: tuple[str, ...]
    """Normalised LaTeX of its expressions."""
    several: re.Match[str] | None = None
    """The match, if there are several expressions or a percentage, which math-verify puts together."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Pattern:
    expression: re.Pattern[str]
    needles: tuple[str, ...]
    """All of these must be in the text."""
    is_delimited: bool
    """Whether one of DELIMITERS must be."""


def find_latex(text: str) -> FoundLatex | None:
    """What math-verify's ``first_match`` takes of a lower-cased text; None if there is nothing."""
    is_delimited = any(delimiter in text for delimiter in DELIMITERS)
    for patterns in PATTERNS:
        matches = [
            match
            for pattern in patterns
            if (is_delimited or not pattern.is_delimited) and all(needle in text for needle in pattern.needles)
            for match in pattern.expression.finditer(text)
        ]
        if matches:
            return _read(max(matches, key=lambda match: (match.end(), -match.start())))
    return None


def parse_several(match: re.Match[str]) -> tuple[Any, str]:
    """The expression that math-verify makes of a match with several, or None, and its text."""
    expression, text = extract_latex(match, ANSWER_EXTRACTION)
    return expression, text


def _read(match: re.Match[str]) -> FoundLatex:
    groups = {name: value for name, value in match.groupdict().items() if value}
    names = [name for name in groups if "_latex" in name]
    is_plain = len(names) == 1 and not any(name.endswith("percent") for name in groups)
    return FoundLatex(
        parts=tuple(
            normalize_latex(
                groups[name],
                config=LAST_BOX if name == "first_latexBoxed" else ANSWER_EXTRACTION.normalization_config,
            )
            for name in names
        ),
        several=None if is_plain else match,
    )


def _make_patterns() -> Sequence[Sequence[_Pattern]]:
    """math-verify's patterns, those of the same priority together, most urgent first."""
    by_priority = sorted(lazy_latex_regex(ANSWER_EXTRACTION), key=lambda pair: pair[1])
    return [
        [_make_pattern(expression) for expression, _ in pairs]
        for _, pairs in groupby(by_priority, lambda pair: pair[1])
    ]


def _make_pattern(expression: re.Pattern[str]) -> _Pattern:
    if "(?i:final answer" in expression.pattern:
        needles: tuple[str, ...] = ("final answer",)
    elif "(?i:answer):" in expression.pattern:
        needles = ("answer:",)
    elif "(?i:answer)" in expression.pattern:
        needles = ("answer",)
    else:
        needles = (BOX, "}")
    is_box_alone = expression.pattern.startswith("(?P<first_latexBoxed>")
    return _Pattern(expression=expression, needles=needles, is_delimited=not is_box_alone)


PATTERNS = _make_patterns()

"""The built-in verifiers."""

from collections.abc import Mapping

from tristream.verifiers.definition import VerifierDefinition
from tristream.verifiers.scorers.choice import score_choice
from tristream.verifiers.scorers.counting import score_counting
from tristream.verifiers.scorers.detection import score_detection
from tristream.verifiers.scorers.exact import score_exact
from tristream.verifiers.scorers.layout import score_format
from tristream.verifiers.scorers.length import score_length
from tristream.verifiers.scorers.mathematics import score_math
from tristream.verifiers.scorers.number import score_number
from tristream.verifiers.scorers.ocr import score_ocr
from tristream.verifiers.scorers.pattern import score_regex

BUILT_INS: Mapping[str, VerifierDefinition] = {
    definition.name: definition
    for definition in (
        score_choice,
        score_counting,
        score_detection,
        score_exact,
        score_format,
        score_length,
        score_math,
        score_number,
        score_ocr,
        score_regex,
    )
}
"""Definitions by name, in the order of the names."""

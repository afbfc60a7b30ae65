r"""Counts: an integer in ``\boxed{...}`` against the truth."""

import re
from typing import ClassVar

from tristream.verifiers.scorers.boxed import has_one_boxed, last_boxed, truth_text
from tristream.verifiers.verifier import Score, ScoringRequest, Unscorable
from tristream.wire.verifiers import BUILT_IN_VERSIONS

INTEGER_PATTERN = re.compile(r"^[+-]?(\d{1,15}|\d{1,3}(,\d{3}){1,4})$")


class CountingVerifier:
    """Accuracy is 1 for the exact count.

    Parameter ``zero_at_error`` (integer >= 1, default 1): an error of this many earns 0, and smaller
    ones earn proportionally: ``max(0, 1 - error / zero_at_error)``.
    """

    name: ClassVar[str] = "counting"
    version: ClassVar[str] = BUILT_IN_VERSIONS["counting"]

    def score(self, request: ScoringRequest) -> Score:
        """Components ``accuracy`` and ``format``; metric ``absolute_error`` where an integer was given."""
        truth = parse_integer(truth_text(request.ground_truth))
        if truth is None:
            raise Unscorable(f"the truth is not an integer: {request.ground_truth[:80]!r}")
        zero_at_error = request.params.get("zero_at_error", 1)
        if isinstance(zero_at_error, bool) or not isinstance(zero_at_error, int) or zero_at_error < 1:
            raise Unscorable(f"zero_at_error must be an integer of at least 1, not {zero_at_error!r}")
        answer = parse_integer(last_boxed(request.text) or "")
        metrics: dict[str, float] = {"answer_found": float(answer is not None)}
        accuracy = 0.0
        if answer is not None:
            error = abs(answer - truth)
            metrics["absolute_error"] = float(error)
            accuracy = max(0.0, 1.0 - error / zero_at_error)
        return Score(
            components={"accuracy": accuracy, "format": float(has_one_boxed(request.text))},
            metrics=metrics,
            params_used={"zero_at_error": zero_at_error},
        )


def parse_integer(text: str) -> int | None:
    """An integer of at most 15 digits, thousands separators allowed, or None."""
    compact = text.strip()
    return int(compact.replace(",", "")) if INTEGER_PATTERN.match(compact) else None

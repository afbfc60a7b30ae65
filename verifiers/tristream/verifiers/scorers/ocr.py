r"""Transcriptions: the text in ``\boxed{...}`` against the truth."""

from typing import ClassVar

from tristream.verifiers.scorers.boxed import has_one_boxed, last_boxed, truth_text
from tristream.verifiers.verifier import Score, ScoringRequest, Unscorable
from tristream.wire.verifiers import BUILT_IN_VERSIONS

SCORES = ("exact", "similarity")


class OcrVerifier:
    """Accuracy is 1 for the exact text, runs of white space being equal to one space.

    Parameter ``score``: ``exact`` (default) or ``similarity``, which makes accuracy the similarity
    ``1 - distance / max(length)`` with Levenshtein's distance.
    """

    name: ClassVar[str] = "ocr"
    version: ClassVar[str] = BUILT_IN_VERSIONS["ocr"]

    def score(self, request: ScoringRequest) -> Score:
        """Components ``accuracy`` and ``format``; metrics ``similarity``, ``exact`` and ``answer_found``."""
        truth = " ".join(truth_text(request.ground_truth).split())
        if not truth:
            raise Unscorable("the truth has no text")
        kind = request.params.get("score", "exact")
        if kind not in SCORES:
            raise Unscorable(f"score must be one of {', '.join(SCORES)}, not {kind!r}")
        boxed = last_boxed(request.text)
        answer = " ".join((boxed or "").split())
        exact = float(answer == truth)
        similarity = edit_similarity(answer, truth)
        return Score(
            components={
                "accuracy": exact if kind == "exact" else similarity,
                "format": float(has_one_boxed(request.text)),
            },
            metrics={"similarity": similarity, "exact": exact, "answer_found": float(boxed is not None)},
            params_used={"score": kind},
        )


def edit_similarity(first: str, second: str) -> float:
    """``1 - distance / max(length)``, 0..1; two empty texts are alike."""
    longest = max(len(first), len(second))
    return 1.0 - edit_distance(first, second) / longest if longest else 1.0


def edit_distance(first: str, second: str) -> int:
    """Levenshtein's distance.

    The columns of the dynamic programme are bit vectors in one integer (Myers 1999, in the form of
    Hyyro 2003), which makes texts of thousands of characters cheap without a compiled library.
    """
    if not first or not second:
        return len(first) or len(second)
    mask, last = (1 << len(first)) - 1, 1 << (len(first) - 1)
    matches: dict[str, int] = {}
    for position, character in enumerate(first):
        matches[character] = matches.get(character, 0) | 1 << position
    positive, negative, distance = mask, 0, len(first)
    for character in second:
        match = matches.get(character, 0)
        vertical = match | negative
        horizontal = (((match & positive) + positive) ^ positive) | match
        rise = negative | (~(horizontal | positive) & mask)
        fall = positive & horizontal
        distance += bool(rise & last) - bool(fall & last)
        rise, fall = (rise << 1) | 1, fall << 1
        positive = (fall | ~(vertical | rise)) & mask
        negative = rise & vertical & mask
    return distance

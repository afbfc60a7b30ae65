r"""Transcriptions: a text, in ``\boxed{...}`` unless the parameters say where else, against the truth."""

from typing import Any, Literal

from tristream.verifiers.contract import Rollout, Score, Unscorable
from tristream.verifiers.definition import verifier
from tristream.verifiers.scorers.answers import AnswerIn, find_answer, has_one_answer
from tristream.verifiers.scorers.boxed import truth_text
from tristream.verifiers.scorers.parameters import refuse_unknown
from tristream.wire.verifiers import BUILT_IN_VERSIONS


def parse_transcription(ground_truth: str) -> str:
    r"""A truth given as ``\boxed{...}`` or bare, runs of white space collapsed."""
    truth = collapse(truth_text(ground_truth))
    if not truth:
        raise Unscorable("the truth has no text")
    return truth


def collapse(text: str) -> str:
    """Text with runs of white space as one space, and none outside."""
    return " ".join(text.split())


@verifier(name="ocr", version=BUILT_IN_VERSIONS["ocr"], components=["accuracy", "format"], truth=parse_transcription)
def score_ocr(
    rollout: Rollout,
    /,
    *,
    score: Literal["exact", "similarity"] = "exact",
    answer_in: AnswerIn = "boxed",
    **others: Any,  # noqa: ANN401 - V-Triune's requests have more
) -> Score:
    """Accuracy is 1 for the exact text; with ``score="similarity"``, ``1 - edit distance / max(length)``.

    Metrics: ``similarity``, ``exact`` and ``answer_found``.
    """
    refuse_unknown(score_ocr, others)
    found = find_answer(rollout.text, answer_in)
    answer = collapse(found or "")
    exact = float(answer == rollout.truth)
    similarity = edit_similarity(answer, rollout.truth)
    return Score(
        components={
            "accuracy": exact if score == "exact" else similarity,
            "format": float(has_one_answer(rollout.text, answer_in)),
        },
        metrics={"similarity": similarity, "exact": exact, "answer_found": float(found is not None)},
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

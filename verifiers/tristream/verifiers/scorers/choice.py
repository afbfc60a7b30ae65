"""The letter of a multiple choice."""

import re
from typing import Any

from tristream.verifiers.contract import Rollout, Score, Unscorable
from tristream.verifiers.definition import verifier
from tristream.verifiers.scorers.answers import AnswerIn, find_answer, has_one_answer
from tristream.verifiers.scorers.boxed import truth_text
from tristream.verifiers.scorers.parameters import refuse_unknown
from tristream.wire.verifiers import BUILT_IN_VERSIONS

LONE_LETTER = re.compile(r"[\s(\[*]*([A-Za-z])[\s)\]*.:]*", re.ASCII)
"""``b``, ``(B)``, ``**B.**``"""
LEADING_LETTER = re.compile(r"[\s(\[*]*([A-Z])[)\]*.:]", re.ASCII)
"""``B. a dog``, ``(B) a dog``"""
NAMED_LETTER = re.compile(r"(?:answer|option|choice)(?:\s+is)?[\s:(\[*]+([A-Z])(?![A-Za-z])", re.ASCII)
"""``the answer is (B)``, ``option B``"""
STANDING_LETTER = re.compile(r"(?<![A-Za-z'])[A-Z](?![A-Za-z'])", re.ASCII)


def parse_letter(ground_truth: str) -> str:
    r"""A truth given as ``B``, ``(B)``, ``B. a dog`` or ``\boxed{B}``."""
    letter = find_letter(truth_text(ground_truth))
    if letter is None:
        raise Unscorable(f"the truth names no letter: {ground_truth[:80]!r}")
    return letter


def find_letter(text: str) -> str | None:
    """The letter that a text names, upper-cased: alone, leading, as the last answer, or the last one that stands."""
    match = LONE_LETTER.fullmatch(text) or LEADING_LETTER.match(text)
    if match:
        return match.group(1).upper()
    found = NAMED_LETTER.findall(text) or STANDING_LETTER.findall(text)
    return found[-1] if found else None


@verifier(name="choice", version=BUILT_IN_VERSIONS["choice"], components=["accuracy", "format"], truth=parse_letter)
def score_choice(
    rollout: Rollout,
    /,
    *,
    answer_in: AnswerIn | None = None,
    **others: Any,  # noqa: ANN401 - V-Triune's requests have more
) -> Score:
    r"""Accuracy is 1 for the letter; without ``answer_in`` it is looked for in a box, in tags, in the last line.

    Metric: ``answer_found``.
    """
    refuse_unknown(score_choice, others)
    places: tuple[AnswerIn, ...] = ("boxed", "tags", "last_line") if answer_in is None else (answer_in,)
    place = next((place for place in places if find_answer(rollout.text, place)), places[-1])
    letter = find_letter(find_answer(rollout.text, place) or "")
    return Score(
        components={"accuracy": float(letter == rollout.truth), "format": float(has_one_answer(rollout.text, place))},
        metrics={"answer_found": float(letter is not None)},
    )

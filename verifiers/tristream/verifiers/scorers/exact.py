"""A text that must be the truth, character by character."""

from typing import Any

from tristream.verifiers.contract import Rollout, Score, Unscorable
from tristream.verifiers.definition import verifier
from tristream.verifiers.scorers.answers import AnswerIn, find_answer, has_one_answer
from tristream.verifiers.scorers.boxed import truth_text
from tristream.verifiers.scorers.parameters import refuse_unknown
from tristream.wire.verifiers import BUILT_IN_VERSIONS


def parse_text(ground_truth: str, *, ignore_case: bool = False) -> str:
    r"""A truth given as ``\boxed{...}`` or bare, without outer white space."""
    truth = truth_text(ground_truth)
    if not truth:
        raise Unscorable("the truth has no text")
    return truth.casefold() if ignore_case else truth


@verifier(name="exact", version=BUILT_IN_VERSIONS["exact"], components=["accuracy", "format"], truth=parse_text)
def score_exact(
    rollout: Rollout,
    /,
    *,
    answer_in: AnswerIn = "text",
    ignore_case: bool = False,
    **others: Any,  # noqa: ANN401 - V-Triune's requests have more
) -> Score:
    """Accuracy is 1 if the answer is the truth but for outer white space."""
    refuse_unknown(score_exact, others)
    answer = find_answer(rollout.text, answer_in) or ""
    accuracy = float((answer.casefold() if ignore_case else answer) == rollout.truth)
    return Score(components={"accuracy": accuracy, "format": float(has_one_answer(rollout.text, answer_in))})

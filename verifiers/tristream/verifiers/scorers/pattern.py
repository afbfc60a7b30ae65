"""A regular expression that an answer must match."""

import re
from typing import Any

from tristream.verifiers.contract import Rollout, Unscorable
from tristream.verifiers.definition import verifier
from tristream.verifiers.scorers.answers import AnswerIn, find_answer
from tristream.verifiers.scorers.parameters import refuse_unknown
from tristream.wire.verifiers import BUILT_IN_VERSIONS


def compile_pattern(ground_truth: str, *, pattern: str = "", ignore_case: bool = False) -> re.Pattern[str]:
    """The pattern of the parameters; if they have none, the truth is one."""
    wanted = pattern or ground_truth
    if not wanted:
        raise Unscorable("neither the parameter pattern nor the truth has a regular expression")
    try:
        return re.compile(wanted, re.DOTALL | re.MULTILINE | (re.IGNORECASE if ignore_case else 0))
    except (re.error, OverflowError, RecursionError, ValueError) as error:
        raise Unscorable(f"{wanted[:80]!r} is no regular expression: {error}") from None


@verifier(name="regex", version=BUILT_IN_VERSIONS["regex"], components=["accuracy"], truth=compile_pattern)
def score_regex(
    rollout: Rollout,
    /,
    *,
    pattern: str = "",  # noqa: ARG001 - read with the truth
    ignore_case: bool = False,  # noqa: ARG001
    answer_in: AnswerIn = "text",
    is_whole: bool = False,
    **others: Any,  # noqa: ANN401 - V-Triune's requests have more
) -> float:
    """1 if the pattern is found in the answer, or with ``is_whole`` matches all of it.

    ``.`` matches line breaks, ``^`` and ``$`` lines. A pattern that backtracks without end runs into the CPU limit.
    """
    refuse_unknown(score_regex, others)
    answer = find_answer(rollout.text, answer_in)
    expression: re.Pattern[str] = rollout.truth
    match = expression.fullmatch if is_whole else expression.search
    return float(answer is not None and match(answer) is not None)

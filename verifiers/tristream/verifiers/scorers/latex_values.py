r"""What LaTeX stands for, and whether it stands for the truth: cheap answers first, sympy last.

sympy may hang for ever on a model's answer, or take gigabytes. Limits that no real answer comes near refuse most of
what does (the longest box of Orsta's data has 28 characters, the deepest nests 2 braces), and the rest is ended by
the CPU limit.
"""

import logging
import re
from functools import lru_cache
from typing import Any

from math_verify import verify
from math_verify.parser import parse_latex_cached
from sympy import Number, Rational

logging.getLogger("math_verify").setLevel(logging.ERROR)  # it warns of the timeouts that are off on purpose

MAX_CHARACTERS = 200
MAX_DEPTH = 6
MAX_POWERS = 12

PLAIN_NUMBER = re.compile(r"-?(?:0|[1-9]\d{0,14})(?:\.\d{1,12})?", re.ASCII)
PLAIN_FRACTION = re.compile(r"\\frac\{(0|[1-9]\d{0,14})\}\{([1-9]\d{0,14})\}", re.ASCII)
MONSTER = re.compile(
    r"\^\s*\{?\s*-?\s*\d{5,}"  # a power beyond ten thousand
    r"|\d{4,}\s*[)}]?\s*!"  # the factorial of thousands
    r"|!\s*[)}]*\s*!"  # or of a factorial
)
TOWER = re.compile(r"\^\s*\{?\s*(\d+)\s*\^\s*\{?\s*(\d+)", re.ASCII)
MAX_POWER = 10_000


def is_reasonable(latex: str) -> bool:
    """Whether LaTeX is no larger, deeper or steeper than any honest answer."""
    if len(latex) > MAX_CHARACTERS or latex.count("^") > MAX_POWERS or MONSTER.search(latex):
        return False
    if any(int(below) ** min(int(above), 100) > MAX_POWER for below, above in TOWER.findall(latex)):
        return False
    depth = deepest = 0
    for character in latex:
        if character in "{([":
            depth += 1
            deepest = max(deepest, depth)
        elif character in "})]":
            depth -= 1
    return deepest <= MAX_DEPTH


@lru_cache(maxsize=512)
def parse_latex(latex: str) -> Any:  # noqa: ANN401 - math-verify has no types
    """The expression that normalised LaTeX stands for; None if it is none, or unreasonable."""
    if PLAIN_NUMBER.fullmatch(latex):
        return Number(latex)
    if fraction := PLAIN_FRACTION.fullmatch(latex):
        return Rational(int(fraction.group(1)), int(fraction.group(2)))
    if not is_reasonable(latex):
        return None
    try:
        return parse_latex_cached(latex)
    except Exception:  # whatever it raises: it is no expression then
        return None


def are_equal(truth: Any, answer: Any) -> bool:  # noqa: ANN401 - math-verify has no types
    """Whether two expressions are equal by math-verify."""
    if isinstance(truth, Rational) and isinstance(answer, Rational):
        return bool(truth == answer)
    return bool(verify(truth, answer, timeout_seconds=None))

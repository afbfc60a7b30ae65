"""Mathematics: cheap comparisons say what math-verify says, and monsters never reach sympy."""

import itertools
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from judging import judge
from math_verify import parse, verify
from math_verify.parser import parse_latex_cached
from sympy import srepr

from tristream.verifiers.scorers.latex_answers import ANSWER_EXTRACTION, find_latex
from tristream.verifiers.scorers.latex_values import PLAIN_FRACTION, PLAIN_NUMBER, is_reasonable, parse_latex

TRUTHS = ("4", r"\boxed{\frac{1}{2}}", r"\boxed{red}", r"\boxed{(1,2)}")
VALUES = ("4", "4.0", "0.5", r"\frac{2}{4}", r"\frac12", "1/2", r"50\%", r"\text{red}", "1,2", "4 cm", "", r"\frac{1}{")
PLACES = (
    r"\boxed{%s}",
    r"so $\boxed{%s}$.",
    r"\[ x = \boxed{%s} \] as \frac{1}{2}",
    r"\boxed{7} or \boxed{%s}",
    "the final answer is $%s$. I hope",
    "Answer: $%s$",
    "answer: $%s$ and $5$",
    r"$\boxed{%s}$ percent",
    r"<answer>\boxed{%s}</answer>",
    "%s",
)


def accuracy_of_math_verify(text: str, truth: str) -> float:
    gold = parse(truth.lower(), extraction_mode="first_match", parsing_timeout=None)
    answer = parse(
        text.lower(), extraction_config=[ANSWER_EXTRACTION], extraction_mode="first_match", parsing_timeout=None
    )
    return float(verify(gold, answer, timeout_seconds=None))


@pytest.mark.filterwarnings("ignore::sympy.utilities.exceptions.SymPyDeprecationWarning")
@pytest.mark.parametrize("place", PLACES)
def test_answers_are_judged_as_by_math_verify(place: str) -> None:
    for value, truth in itertools.product(VALUES, TRUTHS):
        text = place.replace("%s", value)
        assert judge("math", text, truth).components["accuracy"] == accuracy_of_math_verify(text, truth), (text, truth)


@given(st.from_regex(PLAIN_NUMBER, fullmatch=True) | st.from_regex(PLAIN_FRACTION, fullmatch=True))
def test_plain_numbers_are_read_as_the_grammar_reads_them(latex: str) -> None:
    assert srepr(parse_latex(latex)) == srepr(parse_latex_cached(latex))


@pytest.mark.parametrize(
    "latex",
    [
        r"\frac{" * 25 + "1" + "}{2}" * 25,
        "(" * 30 + "1" + ")" * 30,
        "9^{9^{9^9}}",
        "9^9^9",
        "2^{1000000}",
        "100000!",
        "((9!)!)!",
        "9!!!!",
        "1+" * 5000 + "1",
        "9" * 10_000,
        "x^2" * 60,
    ],
)
def test_monsters_are_wrong_in_a_moment(latex: str) -> None:
    start_seconds = time.process_time()
    score = judge("math", rf"\boxed{{{latex}}}", r"\boxed{\frac{3}{7}}")
    assert score.components["accuracy"] == 0.0
    assert time.process_time() - start_seconds < 0.5


@pytest.mark.parametrize(
    "latex",
    [
        r"\frac{\sqrt{3}+1}{2}",
        "e^{x^2}",
        r"\frac{5!}{3!\cdot 2!}",
        r"\frac{n!}{k!(n-k)!}",
        "2^{2023}",
        r"6.02 \times 10^{23}",
        r"1.6 \times 10^{-19}",
        "2^{3^2}",
        r"\left(\frac{1}{2}\right)^{10}",
        "(1.05)^{20}",
        r"\sqrt{2+\sqrt{2+\sqrt{2}}}",
        r"\begin{pmatrix} 1 & 2 \\ 3 & 4 \end{pmatrix}",
        "x^6+x^5+x^4+x^3+x^2+x+1",
        "12345678901234567890",
    ],
)
def test_honest_answers_are_reasonable(latex: str) -> None:
    assert is_reasonable(latex)


def test_a_monster_that_is_the_truth_letter_by_letter_is_right() -> None:
    monster = "+".join(str(number) for number in range(100))
    assert judge("math", rf"\boxed{{{monster}}}", rf"\boxed{{{monster}}}").components["accuracy"] == 1.0


@given(st.text(alphabet=r"$\boxed{}[]()answer: 4,.%", max_size=60))
def test_what_is_found_takes_any_text(text: str) -> None:
    found = find_latex(text.lower())
    assert found is None or found.parts

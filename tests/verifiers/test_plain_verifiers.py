"""The plain verifiers: exact, choice, number, regex, format, length."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from judging import judge

from tristream.verifiers.contract import Abstain, Unscorable
from tristream.verifiers.scorers.answers import between_tags


def accuracy(name: str, text: str, truth: str, params: dict[str, Any] | None = None) -> float | None:
    return judge(name, text, truth, params).components["accuracy"]


@pytest.mark.parametrize(
    ("text", "params", "expected"),
    [
        (" Main St\n", {}, 1.0),
        ("main st", {}, 0.0),
        ("main st", {"ignore_case": True}, 1.0),
        ("It is\nMain St", {}, 0.0),
        ("It is\nMain St\n\n", {"answer_in": "last_line"}, 1.0),
        (r"\boxed{Main St}", {"answer_in": "boxed"}, 1.0),
        ("<answer> Main St </answer>", {"answer_in": "tags"}, 1.0),
        ("Main St", {"answer_in": "tags"}, 0.0),
        ("", {}, 0.0),
    ],
)
def test_exact_wants_the_truth_where_the_answer_stands(text: str, params: dict[str, Any], expected: float) -> None:
    assert accuracy("exact", text, "Main St", params) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("B", 1.0),
        ("(b)", 1.0),
        ("**B.**", 1.0),
        ("B. a dog", 1.0),
        ("A lot speaks for it.\nThe answer is (B)", 1.0),
        ("Is it A? No: option B, I think", 1.0),
        (r"A or C? \boxed{B}", 1.0),
        (r"\boxed{\text{B}}", 1.0),
        ("C\n<answer>\nB\n</answer>\nD", 1.0),
        ("C", 0.0),
        (r"B, no: \boxed{C}", 0.0),
        ("a dog", 0.0),
        ("", 0.0),
    ],
)
def test_choice_reads_the_letter(text: str, expected: float) -> None:
    for truth in ("B", "(B)", "B. a dog", r"\boxed{B}"):
        assert accuracy("choice", text, truth) == expected


@pytest.mark.parametrize(
    ("text", "params", "expected"),
    [
        ("There are 3, so it costs $1,024.50.", {}, 1.0),
        ("1024.5", {}, 1.0),
        ("1.0245e3 is it", {}, 1.0),
        ("2049/2", {}, 1.0),
        ("1024.5 and 7", {}, 0.0),
        ("-1024.5", {}, 0.0),
        ("1024.4", {}, 0.0),
        ("1024.4", {"tolerance": 0.2}, 1.0),
        ("1000", {"relative_tolerance": 0.05}, 1.0),
        (r"7 \boxed{1024.5} 8", {"answer_in": "boxed"}, 1.0),
        ("1/0", {}, 0.0),
        ("9" * 500, {}, 0.0),
        ("none", {}, 0.0),
    ],
)
def test_number_takes_the_last_one_within_the_tolerance(text: str, params: dict[str, Any], expected: float) -> None:
    assert accuracy("number", text, r"\boxed{1024.5}", params) == expected


def test_regex_comes_from_the_parameters_or_else_is_the_truth() -> None:
    assert accuracy("regex", "see Fig. 12", "", {"pattern": r"fig\. \d+", "ignore_case": True}) == 1.0
    assert accuracy("regex", "see Fig. 12", "", {"pattern": r"fig\. \d+"}) == 0.0
    assert accuracy("regex", "see Fig. 12", r"\d+$") == 1.0
    assert accuracy("regex", "see Fig. 12", r"\d+", {"is_whole": True}) == 0.0
    assert accuracy("regex", "<answer>12</answer>", r"\d+", {"is_whole": True, "answer_in": "tags"}) == 1.0


@pytest.mark.parametrize(
    ("text", "expected", "share"),
    [
        ("<think>\na\n</think>\n<answer>b</answer>\n", 1.0, 1.0),
        ("<think>a</think> so <answer>b</answer>", 0.0, 1.0),
        ("<answer>b</answer><think>a</think>", 0.0, 1.0),
        ("<think>a</think><answer>b", 0.0, 0.5),
        ("<think>a<think></think><answer>b</answer>", 0.0, 0.5),
        ("<think>a<answer>b</think></answer>", 0.0, 1.0),
        ("", 0.0, 0.0),
    ],
)
def test_format_wants_its_tags_in_order_and_nothing_else(text: str, expected: float, share: float) -> None:
    score = judge("format", text)
    assert (score.components, score.metrics) == ({"format": expected}, {"tag_share": share})


def test_format_takes_any_layout() -> None:
    assert judge("format", "<box>1</box>", "", {"layout": ["box"]}).components == {"format": 1.0}


@pytest.mark.parametrize(
    ("num_tokens", "expected"), [(1, 0.0), (800, 0.0), (850, -0.25), (900, -0.5), (1000, -1.0), (5000, -1.0)]
)
def test_length_punishes_softly_near_the_limit(num_tokens: int, expected: float) -> None:
    for params in ({"max_tokens": 1000}, {"max_tokens": 1000, "buffer_tokens": 200}):
        score = judge("length", "x", "", params, num_sampled_tokens=num_tokens)
        assert score.components == {"length": pytest.approx(expected)}


def test_length_has_no_opinion_where_nobody_counted() -> None:
    with pytest.raises(Abstain):
        judge("length", "x", "", {"max_tokens": 10})


@pytest.mark.parametrize(
    ("name", "truth", "params"),
    [
        ("exact", " ", {}),
        ("exact", "a", {"answer_in": "air"}),
        ("choice", "nothing", {}),
        ("number", "nothing", {}),
        ("number", "1", {"tolerance": -1}),
        ("number", "1", {"tolerance": "wide"}),
        ("regex", "", {}),
        ("regex", "(", {}),
        ("regex", "a", {"pattern": "a{99999999999}"}),
        ("format", "", {"layout": []}),
        ("format", "", {"layout": ["<b>"]}),
        ("length", "", {}),
        ("length", "", {"max_tokens": 0}),
        ("length", "", {"max_tokens": 10, "buffer_tokens": 11}),
        ("length", "", {"max_tokens": 10, "soft": True}),
    ],
)
def test_bad_truths_and_parameters_are_unscorable(name: str, truth: str, params: dict[str, Any]) -> None:
    with pytest.raises(Unscorable):
        judge(name, "x", truth, params)


@given(st.text(alphabet="<>/answer \n", max_size=80))
def test_what_stands_between_tags_takes_any_text(text: str) -> None:
    inner = between_tags(f"{text}<answer>a</answer>")
    assert inner is not None
    assert "</answer>" not in inner

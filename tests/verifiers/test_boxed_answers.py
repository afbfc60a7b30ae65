"""The verifiers of boxed answers: counting, ocr, mathematics."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from judging import judge

from tristream.verifiers.contract import Unscorable
from tristream.verifiers.scorers.boxed import find_boxed, has_one_boxed, last_boxed
from tristream.verifiers.scorers.ocr import edit_distance, edit_similarity
from tristream.verifiers.scorers.tags import tag_format


@pytest.mark.parametrize(
    ("text", "contents"),
    [
        (r"\boxed{1} and \boxed{\frac{1}{2}} and \boxed{3", ["1", r"\frac{1}{2}", None]),
        (r"} \boxed{a}", ["a"]),
        (r"\boxed{\boxed{3}}", [r"\boxed{3}", "3"]),
        (r"\boxed{\{1\}}", [r"\{1\}"]),
        (r"\boxed{}", [""]),
        ("nothing", []),
    ],
)
def test_find_boxed_balances_braces(text: str, contents: list[str | None]) -> None:
    assert find_boxed(text) == contents


def test_last_boxed_is_the_last_closed_one_without_text_command() -> None:
    assert last_boxed(r"\boxed{1} \boxed{\text{ red }} \boxed{2") == "red"
    assert last_boxed("none") is None


def test_format_is_exactly_one_closed_box() -> None:
    assert has_one_boxed(r"so \boxed{1}")
    assert not has_one_boxed(r"\boxed{1} \boxed{2}")
    assert not has_one_boxed(r"\boxed{1")
    assert not has_one_boxed("1")


@given(st.text(alphabet="ab{}\\boxed ", max_size=60))
def test_find_boxed_takes_any_text(text: str) -> None:
    assert len(find_boxed(text)) == text.count("\\boxed{")


@pytest.mark.parametrize(
    ("answer", "accuracy", "error"),
    [
        (r"\boxed{4}", 1.0, 0.0),
        (r"\boxed{1} no, \boxed{ 4 }", 1.0, 0.0),
        (r"\boxed{3}", 0.0, 1.0),
        (r"\boxed{1,004}", 0.0, 1000.0),
        (r"\boxed{four}", 0.0, None),
        (r"\boxed{4.0}", 0.0, None),
        ("4", 0.0, None),
        (r"\boxed{" + "9" * 5000 + "}", 0.0, None),
    ],
)
def test_counting_wants_the_exact_integer_in_the_last_box(answer: str, accuracy: float, error: float | None) -> None:
    score = judge("counting", answer, r"\boxed{4}")
    assert score.components["accuracy"] == accuracy
    assert score.metrics.get("absolute_error") == error
    assert score.metrics["answer_found"] == float(error is not None)


def test_counting_gives_partial_credit_on_demand() -> None:
    score = judge("counting", r"\boxed{6}", "4", {"zero_at_error": 5})
    assert score.components == {"accuracy": pytest.approx(0.6), "format": 1.0}


@pytest.mark.parametrize(
    ("truth", "params"),
    [("four", {}), ("", {}), ("4", {"zero_at_error": 0}), ("4", {"zero_at_error": True}), ("4", {"strict": 1})],
)
def test_counting_cannot_score_bad_truths_or_parameters(truth: str, params: dict[str, object]) -> None:
    with pytest.raises(Unscorable):
        judge("counting", r"\boxed{4}", truth, params)


@pytest.mark.parametrize(
    ("answer", "place", "accuracy", "form"),
    [
        ("I count 3 dogs and 4 cats.", "text", 1.0, 1.0),
        ("3.4 of 14", "text", 0.0, 1.0),
        ("all 1,004", "text", 0.0, 1.0),
        ("none", "text", 0.0, 1.0),
        ("4 or 5?\nIt is 4.", "last_line", 1.0, 1.0),
        ("<answer>\n4\n</answer>", "tags", 1.0, 1.0),
        ("<answer>4</answer><answer>5</answer>", "tags", 1.0, 0.0),
        ("4", "tags", 0.0, 0.0),
    ],
)
def test_counting_needs_no_box_where_the_parameters_say_so(
    answer: str, place: str, accuracy: float, form: float
) -> None:
    score = judge("counting", answer, r"\boxed{4}", {"answer_in": place})
    assert score.components == {"accuracy": accuracy, "format": form}


def test_ocr_wants_the_exact_text() -> None:
    right = judge("ocr", r"\boxed{MAIN  ST}", r"\boxed{MAIN ST}")
    assert right.components == {"accuracy": 1.0, "format": 1.0}
    wrong = judge("ocr", r"\boxed{MAIN SI}", "MAIN ST")
    assert wrong.components == {"accuracy": 0.0, "format": 1.0}
    assert wrong.metrics["similarity"] == pytest.approx(6 / 7)
    assert judge("ocr", "MAIN ST", "MAIN ST").components == {"accuracy": 0.0, "format": 0.0}


def test_ocr_can_reward_similarity() -> None:
    score = judge("ocr", r"\boxed{MAIN SI}", "MAIN ST", {"score": "similarity"})
    assert score.components["accuracy"] == pytest.approx(6 / 7)


def test_ocr_needs_no_box_where_the_parameters_say_so() -> None:
    assert judge("ocr", "It says\nMAIN  ST\n", "MAIN ST", {"answer_in": "last_line"}).components["accuracy"] == 1.0
    assert judge("ocr", "It says\nMAIN  ST\n", "MAIN ST", {"answer_in": "text"}).components["accuracy"] == 0.0


@pytest.mark.parametrize(("truth", "params"), [(r"\boxed{ }", {}), ("a", {"score": "bleu"}), ("a", {"answer_in": "x"})])
def test_ocr_cannot_score_bad_truths_or_parameters(truth: str, params: dict[str, object]) -> None:
    with pytest.raises(Unscorable):
        judge("ocr", r"\boxed{a}", truth, params)


def plain_edit_distance(first: str, second: str) -> int:
    row = list(range(len(second) + 1))
    for i, left in enumerate(first, start=1):
        previous, row[0] = row[0], i
        for j, right in enumerate(second, start=1):
            previous, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, previous + (left != right))
    return row[-1]


@given(st.text("abc", max_size=90), st.text("abc", max_size=90))
def test_edit_distance_equals_the_textbook(first: str, second: str) -> None:
    assert edit_distance(first, second) == plain_edit_distance(first, second)


@given(st.text(max_size=40), st.text(max_size=40))
def test_edit_similarity_is_symmetric_and_bounded(first: str, second: str) -> None:
    similarity = edit_similarity(first, second)
    assert 0.0 <= similarity <= 1.0
    assert similarity == edit_similarity(second, first)
    assert (similarity == 1.0) == (first == second)


@pytest.mark.parametrize(
    ("answer", "truth", "accuracy"),
    [
        (r"so \boxed{\frac{2}{4}}", r"\boxed{0.5}", 1.0),
        (r"\boxed{42}", "42", 1.0),
        ("42", r"\boxed{42}", 0.0),
        (r"\boxed{RED}", r"\boxed{red}", 1.0),
        (r"\boxed{3} \boxed{4}", r"\boxed{4}", 0.0),
        (r"\boxed{4 cm}", r"\boxed{4}", 1.0),
        (r"\boxed{x^2-1}", r"\boxed{(x-1)(x+1)}", 1.0),
        (r"\boxed{\frac{1}{", r"\boxed{4}", 0.0),
        ("", r"\boxed{4}", 0.0),
    ],
)
def test_math_compares_values(answer: str, truth: str, accuracy: float) -> None:
    assert judge("math", answer, truth).components["accuracy"] == accuracy


def test_math_says_whether_there_was_an_answer() -> None:
    assert judge("math", "no box", "4").metrics == {"answer_found": 0.0}
    assert judge("math", r"\boxed{5}", "4").metrics == {"answer_found": 1.0}


def test_math_reads_answers_without_a_box_where_the_parameters_say_so() -> None:
    for answer in ("So it is $\\frac{1}{2}$", "the answer is 0.5"):
        assert judge("math", answer, r"\boxed{\frac{1}{2}}", {"answer_in": "text"}).components["accuracy"] == 1.0
        assert judge("math", answer, r"\boxed{\frac{1}{2}}").components["accuracy"] == 0.0


def test_what_the_trainer_of_v_triune_sends_along_is_ignored_and_other_parameters_are_refused() -> None:
    request = {
        "is_training": True,
        "step": 3,
        "total_steps": 10,
        "image_path": ["a.png"],
        "image_grid_thw": [[1, 28, 28]],
        "verifier_style": "rule",
        "det_verifier_normalized": None,
        "det_reward_ratio": {"map": None},
    }
    assert judge("math", r"\boxed{4}", "4", request).components["accuracy"] == 1.0
    with pytest.raises(Unscorable, match=r"math has no parameter 'styl'; it has style, answer_in"):
        judge("math", r"\boxed{4}", "4", {"styl": "vtriune"})


def test_math_cannot_score_an_unparseable_truth() -> None:
    with pytest.raises(Unscorable, match="cannot be parsed"):
        judge("math", r"\boxed{4}", "no number here")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("<think>\na\n</think>\n<answer>\nb\n</answer>", 1.0),
        ("<think>a</think><answer>b</answer>", 0.0),
        ("<think>\na\n</think>\n<answer>\nb</answer>", 0.75),
        ("x\n<answer>\nb\n</answer>", 0.5),
        ("<think>\n<think>\na\n</think>\n<answer>\nb\n</answer>", 0.75),
    ],
)
def test_math_format_counts_tags_with_their_line_breaks(text: str, expected: float) -> None:
    assert tag_format(text) == expected


@settings(max_examples=30, deadline=None)
@given(st.text(max_size=60))
def test_math_takes_any_answer(text: str) -> None:
    score = judge("math", text, r"\boxed{4}")
    assert score.components["accuracy"] in (0.0, 1.0)

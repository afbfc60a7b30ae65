"""The digits example: what its own verifiers say, and that each control is a run file."""

import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tristream.config.load import load_run_file
from tristream.verifiers import Rollout
from tristream.verifiers.loading import load_definition

sys.path.append(str(Path(__file__).parents[2] / "examples/digits"))
from answer_verifiers import apart, deal_out, pay_for_style
from controls import CONTROLS, RUN_FILE
from grading import grade_content, grade_response, has_demanded_format

BOXES = '[{"bbox_2d": [0, 0, 100, 100], "label": "3"}]'


@pytest.mark.parametrize(
    ("source", "text", "truth", "content", "style"),
    [
        ("digits_read", r"\boxed{471}", r"\boxed{471}", 1.0, 1.0),
        ("digits_read", "Answer: 471", r"\boxed{471}", 1.0, 0.0),
        ("digits_sum", "12", r"\boxed{21}", 0.0, 0.0),
        ("digits_find", BOXES, f"<answer>\n{BOXES}\n</answer>", 1.0, 0.0),
        ("digits_find", "Answer: none", f"<answer>\n{BOXES}\n</answer>", 0.0, 0.0),
    ],
)
def test_content_and_style_are_told_apart(source: str, text: str, truth: str, content: float, style: float) -> None:
    assert apart(Rollout(source=source, text=text, ground_truth=truth)) == {"content": content, "style": style}


def test_shuffled_rewards_are_those_of_the_group_dealt_out_anew_and_a_lone_answer_keeps_its_own() -> None:
    texts = [r"\boxed{4}", "4", r"\boxed{5}", r"\boxed{4}", "Answer: 4", "5"]
    group = tuple(
        Rollout(source="digits_count", sample_id="a", text=text, ground_truth=r"\boxed{4}", index=index)
        for index, text in enumerate(texts)
    )
    scores = deal_out(group)
    assert sorted(score["accuracy"] for score in scores) == [0, 0, 0, 0, 1, 1]
    assert [score["accuracy"] for score in scores] != [1, 0, 0, 1, 0, 0]
    assert deal_out(group) == scores
    assert [deal_out((rollout,))[0]["accuracy"] for rollout in group] == [1, 0, 0, 1, 0, 0]


def test_the_style_that_is_paid_for_alone_is_not_the_demanded_one() -> None:
    assert pay_for_style(Rollout(source="digits_sum", text="Answer: 7", ground_truth=r"\boxed{9}"))["accuracy"] == 1.0
    assert pay_for_style(Rollout(source="digits_sum", text=r"\boxed{9}", ground_truth=r"\boxed{9}"))["accuracy"] == 0.0


@pytest.mark.parametrize("name", CONTROLS)
def test_a_control_is_the_run_file_with_one_thing_changed(name: str) -> None:
    own = load_run_file(RUN_FILE, environment={}).model_dump()
    changed = load_run_file(RUN_FILE, CONTROLS[name], environment={}).model_dump()
    assert len([section for section in own if own[section] != changed[section]]) == 1
    names = {section["name"] for section in own["sources"]}
    assert {section["name"] for section in changed["sources"]} <= names


@pytest.mark.parametrize("source", ["digits_read", "digits_count", "digits_sum", "digits_find"])
def test_the_truths_of_the_held_out_rows_have_the_demanded_form_and_full_content(source: str) -> None:
    rows = pq.read_table(RUN_FILE.parent / f"data/eval_{source}.parquet").column("reward_model").to_pylist()
    for row in rows:
        assert has_demanded_format(source, "x" * (source == "digits_find") + "\n" + row["ground_truth"])
        assert grade_content(source, row["ground_truth"], row["answer"]) == pytest.approx(1.0)
        assert grade_response(source, "\n" + row["ground_truth"], row["answer"]) == pytest.approx(1.0)


@pytest.mark.parametrize("name", ["shuffled", "style-alone"])
def test_the_verifiers_of_a_control_answer_to_the_names_that_the_rows_ask_for(name: str) -> None:
    plug_ins = load_run_file(RUN_FILE, CONTROLS[name], environment={}).verification.plug_ins
    definitions = [load_definition(entry_point, versioned) for versioned, entry_point in plug_ins.items()]
    assert {definition.name for definition in definitions} == {"apart", "ocr", "counting", "math", "detection"}

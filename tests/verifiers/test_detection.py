"""Detection: reading boxes, matching, the schedule, average precision."""

import json
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from judging import judge

from tristream.verifiers.contract import Unscorable
from tristream.verifiers.scorers.average_precision import average_precisions
from tristream.verifiers.scorers.boxes import Box, intersection_over_union, read_boxes
from tristream.verifiers.scorers.detection import METRIC_NAMES
from tristream.verifiers.scorers.matching import compute_overlaps, match_boxes, match_labels
from tristream.verifiers.scorers.vtriune_boxes import read_vtriune_boxes

DOG = {"bbox_2d": [0, 0, 100, 100], "label": "dog"}
CAT = {"bbox_2d": [200, 200, 300, 300], "label": "cat"}
NEAR_DOG = {"bbox_2d": [0, 0, 90, 100], "label": "dog"}
"""Overlaps DOG by 0.9."""


def answer(*boxes: dict[str, Any]) -> str:
    return f"<think>\nx\n</think>\n<answer>\n{json.dumps(boxes)}\n</answer>"


def accuracy(prediction: str, truth: str, params: dict[str, Any] | None = None, step: int = 1) -> float:
    value = judge("detection", prediction, truth, params, step=step).components["accuracy"]
    assert value is not None
    return value


boxes = st.builds(
    lambda label, left, top, width, height: Box(
        label=label, left=left, top=top, right=left + width, bottom=top + height
    ),
    st.sampled_from("ab"),
    st.integers(0, 20),
    st.integers(0, 20),
    st.integers(0, 20),
    st.integers(0, 20),
)


@given(boxes, boxes)
def test_overlap_is_symmetric_and_bounded(first: Box, second: Box) -> None:
    overlap = intersection_over_union(first, second)
    assert 0.0 <= overlap <= 1.0
    assert overlap == intersection_over_union(second, first)


@given(boxes)
def test_overlap_of_a_box_with_itself_is_one_unless_it_is_flat(box: Box) -> None:
    assert intersection_over_union(box, box) == float(box.area > 0)


@given(st.lists(boxes, max_size=5), st.lists(boxes, min_size=1, max_size=5), st.sampled_from([0.1, 0.5, 0.9]))
def test_matchings_use_each_box_once_and_only_above_the_threshold(
    predicted: list[Box], truth: list[Box], threshold: float
) -> None:
    overlaps = compute_overlaps(predicted, truth)
    by_label = match_labels(predicted, truth, overlaps, threshold)
    by_iou = match_boxes(predicted, truth, overlaps, threshold)
    assert all(iou >= threshold for iou in by_label.ious)
    for matching in (by_label, by_iou):
        assert len(matching.ious) <= min(len(predicted), len(truth))
        assert all(0.0 <= value <= 1.0 + 1e-9 for value in (matching.mean_iou, matching.precision, matching.recall))
        assert 0.0 <= matching.weighted_iou(0.3) <= 1.0 + 1e-9


@given(st.lists(boxes.filter(lambda box: box.area > 0), min_size=1, max_size=6, unique=True), st.randoms())
def test_the_truth_itself_in_any_order_is_worth_one(truth: list[Box], random: Any) -> None:
    predicted = random.sample(truth, len(truth))
    overlaps = compute_overlaps(predicted, truth)
    assert match_labels(predicted, truth, overlaps, 0.5).mean_iou == pytest.approx(1.0)
    assert match_boxes(predicted, truth, overlaps, 0.99).precision == 1.0
    assert all(value == pytest.approx(1.0) for value in average_precisions(predicted, truth, overlaps))


def test_the_matching_is_the_best_one_and_not_a_greedy_one() -> None:
    truth = [Box(label="a", left=0, top=0, right=10, bottom=10), Box(label="a", left=2, top=0, right=12, bottom=10)]
    predicted = [Box(label="a", left=1, top=0, right=11, bottom=10), Box(label="a", left=-2, top=0, right=8, bottom=10)]
    overlaps = compute_overlaps(predicted, truth)
    assert sorted(match_labels(predicted, truth, overlaps, 0.5).ious) == pytest.approx([8 / 12, 9 / 11])


def test_without_regard_to_labels_a_wrong_label_is_matched_and_counts_nothing() -> None:
    truth = [Box(label="dog", left=0, top=0, right=10, bottom=10)]
    predicted = [Box(label="cat", left=0, top=0, right=10, bottom=10)]
    matching = match_boxes(predicted, truth, compute_overlaps(predicted, truth), 0.5)
    assert (matching.ious, matching.recall) == ((0.0,), 1.0)


@pytest.mark.parametrize(
    ("prediction", "truth", "step", "expected"),
    [
        ([DOG], [DOG], 1, 1.0),
        ([{**DOG, "label": "DOG"}], [DOG], 1, 1.0),
        ([NEAR_DOG], [DOG], 1, 0.7 * 0.9 + 0.3),
        ([NEAR_DOG], [DOG], 10, 0.93),
        ([NEAR_DOG], [DOG], 11, 0.0),
        ([{**DOG, "bbox_2d": [0, 0, 97, 100]}], [DOG], 25, 0.979),
        ([{**DOG, "bbox_2d": [0, 0, 97, 100]}], [DOG], 26, 0.0),
        ([{**DOG, "bbox_2d": [0, 0, 99, 100]}], [DOG], 100, 0.993),
        ([DOG, {**CAT, "label": "dog"}], [DOG], 1, (0.7 + 0.3 * 0.75) * 0.6),
        ([DOG], [DOG, CAT], 1, (0.7 * 0.5 + 0.3 * 0.75) * 0.6),
        ([{**DOG, "label": "cat"}], [DOG], 1, 0.0),
    ],
)
def test_accuracy_is_the_weighted_iou_at_the_scheduled_threshold(
    prediction: list[dict[str, Any]], truth: list[dict[str, Any]], step: int, expected: float
) -> None:
    assert accuracy(answer(*prediction), answer(*truth), step=step) == pytest.approx(expected)


def test_threshold_can_be_a_number_the_average_or_another_schedule() -> None:
    near, truth = answer(NEAR_DOG), answer(DOG)
    assert accuracy(near, truth, {"threshold": 0.5}, step=100) == pytest.approx(0.93)
    assert accuracy(near, truth, {"threshold": "average"}) == pytest.approx(0.93 * 9 / 11)
    schedule = {"schedule": [[0.5, 0.5], [1.0, 0.95]]}
    assert accuracy(near, truth, schedule, step=50) == pytest.approx(0.93)
    assert accuracy(near, truth, schedule, step=51) == 0.0


def test_parameters_used_and_the_threshold_are_recorded() -> None:
    score = judge("detection", answer(DOG), answer(DOG), step=20)
    assert score.params_used["iou_threshold"] == 0.95
    assert score.metrics["iou_threshold"] == 0.95
    assert set(METRIC_NAMES) <= set(score.metrics)


def test_unreadable_answers_have_the_same_metrics_as_readable_ones() -> None:
    readable = judge("detection", answer(DOG), answer(DOG))
    unreadable = judge("detection", "no boxes", answer(DOG))
    assert set(readable.metrics) == set(unreadable.metrics)
    assert unreadable.components == {"accuracy": 0.0, "format": 0.0}


def test_nulls_in_the_weights_count_as_absent() -> None:
    ratios = {"iou_max_label_first": 1.0, "iou_completeness": None, "map": None}
    assert accuracy(answer(NEAR_DOG), answer(DOG), {"det_reward_ratio": ratios}) == pytest.approx(0.9)
    nothing = {"det_reward_ratio": {"map": None}, "det_verifier_normalized": None}
    assert accuracy(answer(NEAR_DOG), answer(DOG), nothing) == pytest.approx(0.93)


def test_average_precision_can_be_rewarded() -> None:
    params = {"det_reward_ratio": {"map": 1.0}}
    assert accuracy(answer(DOG), answer(DOG, CAT), params) == pytest.approx(0.5 * 0.6)
    assert accuracy(answer(NEAR_DOG), answer(DOG), params) == pytest.approx(0.9)
    assert accuracy(answer(NEAR_DOG), answer(DOG), {"det_reward_ratio": {"map50": 0.5, "map75": 0.5}}) == 1.0


def test_average_precision_of_a_late_hit_is_its_precision() -> None:
    truth = [Box(label="a", left=0, top=0, right=10, bottom=10)]
    wrong = Box(label="a", left=50, top=50, right=60, bottom=60)
    predicted = [wrong, *truth]
    assert average_precisions(predicted, truth, compute_overlaps(predicted, truth)) == (0.5,) * 10


def test_average_precision_reads_recalls_where_coco_does() -> None:
    truth = [Box(label="a", left=20 * i, top=0, right=20 * i + 10, bottom=10) for i in range(10)]
    found = truth[:7]
    # 0.7 is a hair below the recall 70 * 0.01, so 70 of the 101 recalls are reached.
    assert average_precisions(found, truth, compute_overlaps(found, truth))[0] == pytest.approx(70 / 101)


def test_average_precision_leaves_out_what_is_too_large_to_count() -> None:
    truth = [Box(label="a", left=0, top=0, right=10, bottom=10), Box(label="b", left=0, top=0, right=99, bottom=99)]
    wide = Box(label="a", left=0, top=0, right=1000, bottom=1000)
    predicted = [wide, truth[0]]
    overlaps = compute_overlaps(predicted, truth)
    assert average_precisions(predicted, truth, overlaps)[0] == pytest.approx(0.25)
    assert average_precisions(predicted, truth, overlaps, max_area=1e4)[0] == pytest.approx(0.5)
    assert average_precisions(predicted, truth, overlaps, max_area=1e3)[0] == pytest.approx(1.0)
    assert average_precisions(predicted, truth, overlaps, max_area=1.0) == (-1.0,) * 10


def test_average_precision_reads_a_half_found_truth_at_101_recalls() -> None:
    truth = [Box(label="a", left=20 * i, top=0, right=20 * i + 10, bottom=10) for i in range(2)]
    assert average_precisions(truth[:1], truth, compute_overlaps(truth[:1], truth))[0] == pytest.approx(51 / 101)


def test_boxes_in_pixels_are_rescaled() -> None:
    params = {"det_verifier_normalized": True, "image_grid_thw": [[1, 420, 616]]}
    pixels = answer({"bbox_2d": [308, 210, 616, 420], "label": "dog"})
    truth = answer({"bbox_2d": [500, 500, 1000, 1000], "label": "dog"})
    assert accuracy(pixels, truth, params) == 1.0


@pytest.mark.parametrize(
    "params",
    [
        {"threshold": "fixed"},
        {"threshold": 0},
        {"threshold": 1.5},
        {"threshold": True},
        {"schedule": []},
        {"schedule": [[0.5, 0.9], [0.1, 0.8]]},
        {"schedule": [0.5]},
        {"schedule": "fast"},
        {"det_reward_ratio": {"mAP": 1.0}},
        {"det_reward_ratio": {"map": 2.0}},
        {"det_reward_ratio": {"map": 0.0}},
        {"det_reward_ratio": [1.0]},
        {"det_verifier_normalized": True},
        {"det_verifier_normalized": True, "image_grid_thw": [[1, 0, 10]]},
        {"parser": "tolerant"},
        {"style": "loose"},
        {"det_reward_ratio": {"\ud800": 1}},
        {"det_reward_ratio": {"map": "1"}},
        {"det_verifier_normalized": True, "image_grid_thw": [[1, 10**400, 10]]},
        {"det_verifier_normalized": True, "image_grid_thw": {}},
    ],
)
def test_bad_parameters_are_unscorable(params: dict[str, Any]) -> None:
    with pytest.raises(Unscorable):
        accuracy(answer(DOG), answer(DOG), params)


@pytest.mark.parametrize(
    ("content", "num_vtriune", "num_standard"),
    [
        ("[{'bbox_2d': [0, 0, 1, 1], 'label': 'dog'}]", 1, 1),
        ('[[{"bbox_2d": [0, 0, 1, 1], "label": "dog"}]]', 1, 1),
        ('[{"bbox_2d": [0, 0, 1, 1], "label": "person\'s hat"}]', None, 1),
        ('{"bbox_2d": [0, 0, 1, 1], "label": "dog"}', None, 1),
        ('```json\n[{"bbox_2d": [0, 0, 1, 1], "label": "dog"}]\n```', None, 1),
        ("[]", None, 0),
        ('[{"bbox_2d": [0, 0, 1, 1], "label": "dog"}, {"bbox_2d": [0, 0,', 1, 1),
        ('[{"bbox_2d": [0, 0, 1, 1], "label": "dog"', 1, 1),
        ('[{"bbox_2d": [0, 0, 1, 1], "label": "dog"}, {"bbox_2d": [0, 0, 1, 1], "label": "cat"}]', 1, 2),
        ('[{"bbox_2d": [0, 0, 1, 1], "label": "dog"}, {"bbox_2d": [0, 0, 1, 1], "label": "dog"}]', 1, 1),
        ('[{"bbox_2d": [2, 0, 1, 1], "label": "dog"}]', None, None),
        ('[{"bbox_2d": [0, 0, 1], "label": "dog"}]', None, None),
        ('[{"bbox_2d": [0, 0, 1, NaN], "label": "dog"}]', None, None),
        ('[{"bbox_2d": [0, 0, 1, 1e999], "label": "dog"}]', 1, None),
        ('[{"bbox_2d": [0, 0, 1, ' + "9" * 400 + '], "label": "dog"}]', 1, None),
        ('[{"bbox_2d": [0, 0, 1, true], "label": "dog"}]', 1, None),
        ('[{"bbox_2d": [0, 0, 1, 1], "label": 3}]', None, None),
        ("[" * 100_000, None, None),
        ("garbage", None, None),
        ("3", None, None),
    ],
)
def test_parsers_read_what_they_say(content: str, num_vtriune: int | None, num_standard: int | None) -> None:
    text = f"<answer>\n{content}\n</answer>"
    counts = [None if found is None else len(found) for found in (read_vtriune_boxes(text), read_boxes(text))]
    assert counts == [num_vtriune, num_standard]


@given(st.text(alphabet="[]{}'\",:0123. bboxlabe_2d\n", max_size=80))
def test_parsers_take_any_text(text: str) -> None:
    for parse in (read_vtriune_boxes, read_boxes):
        parse(f"<answer>{text}</answer>")


def test_an_image_without_objects_can_be_answered() -> None:
    assert accuracy(answer(), answer()) == 1.0
    assert accuracy(answer(DOG), answer()) == 0.0
    assert accuracy(answer(), answer(DOG)) == 0.0


def test_an_unreadable_truth_is_unscorable() -> None:
    for truth in ("", "dog", "<answer>dog</answer>"):
        with pytest.raises(Unscorable):
            accuracy(answer(DOG), truth)


def test_format_wants_one_pair_of_tags_around_readable_boxes() -> None:
    inline = f"<answer>{json.dumps([DOG])}</answer>"
    twice = answer(DOG) + "\n</answer>"
    texts = (answer(DOG), inline, answer(), twice, "<answer>dog</answer>", json.dumps([DOG]))
    scores = [judge("detection", text, answer(DOG)).components["format"] for text in texts]
    assert scores == [1.0, 1.0, 1.0, 0.0, 0.0, 0.0]


def test_thousands_of_tags_are_read_in_a_moment() -> None:
    start_seconds = time.process_time()
    assert accuracy("<answer>" * 20_000, answer(DOG)) == 0.0
    assert time.process_time() - start_seconds < 0.5


def test_a_run_without_steps_is_unscorable() -> None:
    for total_steps in (0, 10**400):
        with pytest.raises(Unscorable, match="no place in a run"):
            judge("detection", answer(DOG), answer(DOG), step=10**800, total_steps=total_steps)

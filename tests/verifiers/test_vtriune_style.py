"""``style="vtriune"``: bug for bug as V-Triune's reward server, and the standard style beside it."""

import json
from typing import Any

import pytest
from judging import judge

from tristream.verifiers.contract import Score
from tristream.verifiers.scorers.vtriune_detection import FIELDS

Boxes = list[dict[str, Any]]

DOG = {"bbox_2d": [0, 0, 100, 100], "label": "dog"}
CAT = {"bbox_2d": [200, 200, 300, 300], "label": "cat"}
LABEL_FIRST = {"iou_max_label_first": 1.0, "iou_completeness": 0.3}
IOU_FIRST = {"iou_max_iou_first": 1.0, "iou_completeness": 0.0}


def answer(boxes: Boxes) -> str:
    return f"<think>\nx\n</think>\n<answer>\n{json.dumps(boxes)}\n</answer>"


def score(predicted: Boxes, truth: Boxes, params: dict[str, Any], style: str = "vtriune") -> Score:
    return judge("detection", answer(predicted), answer(truth), {"threshold": 0.5, **params, "style": style})


def test_iou_first_matches_the_last_two_boxes_and_lets_them_count_the_largest_overlap() -> None:
    in_order = score([DOG, CAT], [DOG, CAT], {"det_reward_ratio": IOU_FIRST})
    assert in_order.metrics["pure_iou_score_max_iou"] == 1.0
    reversed_order = score([CAT, DOG], [DOG, CAT], {"det_reward_ratio": IOU_FIRST})
    assert reversed_order.components["accuracy"] == 0.0
    assert reversed_order.metrics["report_iou_50_iou_match_precision"] == 0.5
    assert score([CAT, DOG], [DOG, CAT], {"det_reward_ratio": IOU_FIRST}, "standard").components["accuracy"] == 1.0


def test_iou_first_lets_a_pair_that_does_not_overlap_count_the_overlap_of_another() -> None:
    far_dog = {"bbox_2d": [500, 500, 600, 600], "label": "dog"}
    judged = score([DOG, far_dog], [DOG, {**far_dog, "bbox_2d": [700, 0, 800, 100]}], {"det_reward_ratio": IOU_FIRST})
    assert judged.metrics["pure_iou_score_max_iou"] == 1.0


def test_label_first_is_greedy_in_the_order_of_the_truth() -> None:
    truth = [{"bbox_2d": [0, 0, 100, 100], "label": "a"}, {"bbox_2d": [20, 0, 120, 100], "label": "a"}]
    predicted = [{"bbox_2d": [10, 0, 110, 100], "label": "a"}, {"bbox_2d": [-20, 0, 80, 100], "label": "a"}]
    greedy = score(predicted, truth, {"det_reward_ratio": {"iou_max_label_first": 1.0}})
    assert greedy.components["accuracy"] == pytest.approx(9 / 11 / 2)
    best = score(predicted, truth, {"det_reward_ratio": {"iou_max_label_first": 1.0}}, "standard")
    assert best.components["accuracy"] == pytest.approx((8 / 12 + 9 / 11) / 2)


@pytest.mark.parametrize(
    "ratios", [{**LABEL_FIRST, "map": None}, {**LABEL_FIRST, "map": "0.5"}, {**LABEL_FIRST, "map": [1]}, [1.0], "all"]
)
def test_a_null_weight_gives_zeros_format_included(ratios: Any) -> None:
    judged = score([DOG], [DOG], {"det_reward_ratio": ratios})
    assert judged.components == {"accuracy": 0.0, "format": 0.0}
    assert judged.metrics == {}


def test_the_standard_style_takes_a_null_weight_for_none() -> None:
    judged = score([DOG], [DOG], {"det_reward_ratio": {**LABEL_FIRST, "map": None}}, "standard")
    assert judged.components == {"accuracy": 1.0, "format": 1.0}


@pytest.mark.parametrize("outside", [1.5, -0.1, 10**400], ids=["high", "low", "huge"])
def test_a_weight_outside_the_range_counts_nothing(outside: float) -> None:
    near = [{**DOG, "bbox_2d": [0, 0, 90, 100]}]
    ratios = {"iou_max_label_first": 1.0, "map": outside, "iou_completeness": outside}
    assert score(near, [DOG], {"det_reward_ratio": ratios}).components["accuracy"] == pytest.approx(0.9)
    alone = {"iou_max_label_first": outside}
    assert score(near, [DOG], {"det_reward_ratio": alone}).components == {"accuracy": 0.0, "format": 1.0}


@pytest.mark.parametrize("params", [{}, {"det_reward_ratio": {}}, {"det_reward_ratio": {"iou_completeness": 0.3}}])
def test_without_any_weight_the_accuracy_is_0_and_format_is_paid(params: dict[str, Any]) -> None:
    judged = score([DOG], [DOG], params)
    assert judged.components == {"accuracy": 0.0, "format": 1.0}
    assert judged.metrics["pure_map50_score"] == pytest.approx(1.0)


@pytest.mark.parametrize("grid", [None, [], [[1, None, None]], [[1, "420", "616"]]])
def test_without_a_usable_grid_nothing_is_rescaled(grid: Any) -> None:
    params = {"det_reward_ratio": LABEL_FIRST, "det_verifier_normalized": True, "image_grid_thw": grid}
    assert score([DOG], [DOG], params).components == {"accuracy": 1.0, "format": 1.0}


@pytest.mark.parametrize("grid", [[[1, 0, 616]], [[1]], [5], 5])
def test_a_grid_on_which_the_server_fails_gives_zeros(grid: Any) -> None:
    params = {"det_reward_ratio": LABEL_FIRST, "det_verifier_normalized": True, "image_grid_thw": grid}
    assert score([DOG], [DOG], params).components == {"accuracy": 0.0, "format": 0.0}


def test_an_unreadable_truth_still_pays_format() -> None:
    params = {"style": "vtriune", "det_reward_ratio": LABEL_FIRST}
    for truth in ("", "a dog", answer([])):
        judged = judge("detection", answer([DOG]), truth, params)
        assert judged.components == {"accuracy": 0.0, "format": 1.0}
        assert judged.metrics == dict.fromkeys(FIELDS, 0.0)
    tagged = "<think>\na\n</think>\n<answer>\n\\boxed{4}\n</answer>"
    assert judge("math", tagged, "no number", {"style": "vtriune"}).components == {"accuracy": 0.0, "format": 1.0}


def test_the_empty_list_and_apostrophes_cannot_be_right() -> None:
    for boxes in ([], [{**DOG, "label": "person's hat"}]):
        judged = score(boxes, boxes, {"det_reward_ratio": LABEL_FIRST})
        assert judged.components == {"accuracy": 0.0, "format": 0.0}


def test_format_wants_tags_on_lines_of_their_own() -> None:
    params = {"style": "vtriune", "det_reward_ratio": LABEL_FIRST}
    for text in (f"<answer>{json.dumps([DOG])}</answer>", answer([DOG]) + "\n</answer>"):
        assert judge("detection", text, answer([DOG]), params).components == {"accuracy": 1.0, "format": 0.0}


def test_of_boxes_in_one_place_the_first_counts_whatever_its_label() -> None:
    judged = score([{**DOG, "label": "cat"}, DOG], [DOG], {"det_reward_ratio": LABEL_FIRST})
    assert judged.components["accuracy"] == 0.0
    assert judged.metrics["size_penalty"] == 1.0


def test_the_further_fields_are_those_of_the_server() -> None:
    ratios = {"iou_max_label_first": 1.0, "iou_completeness": 0.3}
    judged = score([{**DOG, "bbox_2d": [0, 0, 90, 100]}, CAT], [DOG], {"det_reward_ratio": ratios})
    assert tuple(judged.metrics) == FIELDS
    assert len(FIELDS) == 29
    assert judged.metrics["size_penalty"] == 0.6
    assert judged.metrics["pure_iou_score_max_label"] == pytest.approx(0.7 * 0.9 + 0.3 * 0.75)
    assert judged.metrics["weighted_iou_score_max_label"] == pytest.approx(0.6 * (0.7 * 0.9 + 0.3 * 0.75))
    assert judged.metrics["pure_iou_score_max_iou"] == pytest.approx(0.3 * 0.75)
    assert judged.metrics["report_iou_50_label_match_precision"] == 0.5
    assert judged.metrics["report_iou_95_label_match_recall"] == 0.0
    assert judged.metrics["pure_map75_score"] == pytest.approx(1.0)


def test_mathematics_has_no_further_fields() -> None:
    judged = judge("math", r"\boxed{0.5}", r"\boxed{\frac{1}{2}}", {"style": "vtriune"})
    assert (judged.components["accuracy"], judged.metrics) == (1.0, {})

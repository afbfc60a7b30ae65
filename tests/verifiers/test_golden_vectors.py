"""V-Triune's own scores, case by case; ``tests/data/README.md`` says where they come from."""

import json
from pathlib import Path
from typing import Any

import pytest
from judging import judge

from tristream.verifiers.contract import Score
from tristream.wire.verifiers import canonical_name

FILE = Path(__file__).parents[1] / "data/vtriune_golden.json"
CASES: list[dict[str, Any]] = json.loads(FILE.read_text(encoding="utf-8"))
READ_BY_STANDARD = {40: (1.0, 1.0), 41: (1.0, 1.0), 42: (1.0, 1.0), 43: (0.0, 1.0), 44: (1.0, 1.0)}
"""Accuracy and format of answers that V-Triune cannot read: an apostrophe, a lone object, a code fence, empty lists."""


def score_of(case: dict[str, Any], style: str) -> Score:
    params: dict[str, Any] = {"style": style}
    if case["verifier"] == "detection":
        ratios = {name: value for name, value in case["weights"].items() if not name.endswith("_ratio")}
        params |= {"threshold": case["threshold"], "det_reward_ratio": ratios}
        if case["image_grid_thw"]:
            params |= {"det_verifier_normalized": True, "image_grid_thw": case["image_grid_thw"]}
    return judge(
        canonical_name(case["verifier"]),
        case["prediction"],
        case["ground_truth"],
        params,
        step=case["step"],
        total_steps=case["total_steps"],
    )


def test_all_golden_vectors_are_there() -> None:
    assert len(CASES) == 45


@pytest.mark.parametrize("case", CASES, ids=[str(index) for index in range(len(CASES))])
def test_golden_vector_is_reproduced_in_the_style_of_v_triune(case: dict[str, Any]) -> None:
    components = score_of(case, "vtriune").components
    accuracy, form = components["accuracy"], components["format"]
    assert accuracy is not None
    assert form is not None
    weights, expected = case["weights"], case["expected"]
    final = (accuracy * weights["accuracy_ratio"] + form * weights["format_ratio"]) / (
        weights["accuracy_ratio"] + weights["format_ratio"]
    )
    assert accuracy == pytest.approx(expected["accuracy"], abs=1e-9)
    assert form == pytest.approx(expected["format"], abs=1e-9)
    assert final == pytest.approx(expected["final"], abs=1e-9)


@pytest.mark.parametrize("index", range(len(CASES)))
def test_the_standard_style_differs_only_where_v_triune_cannot_read(index: int) -> None:
    expected = CASES[index]["expected"]
    accuracy, form = READ_BY_STANDARD.get(index, (expected["accuracy"], expected["format"]))
    components = score_of(CASES[index], "standard").components
    assert components == {"accuracy": pytest.approx(accuracy, abs=1e-9), "format": pytest.approx(form, abs=1e-9)}

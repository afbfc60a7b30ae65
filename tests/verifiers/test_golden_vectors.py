"""V-Triune's own scores, case by case; ``tests/data/README.md`` says where they come from."""

import json
from pathlib import Path
from typing import Any

import pytest
from builders import make_scoring_request

from tristream.verifiers.registry import VERIFIERS
from tristream.verifiers.verifier import Unscorable
from tristream.wire.verifiers import canonical_name

FILE = Path(__file__).parents[1] / "data/vtriune_golden.json"
CASES: list[dict[str, Any]] = json.loads(FILE.read_text(encoding="utf-8"))
UNUSABLE_TRUTHS = {"apostrophe": "person's hat", "empty list": "[]"}


def is_unusable(truth: str) -> bool:
    return any(part in truth for part in UNUSABLE_TRUTHS.values())


def params_of(case: dict[str, Any]) -> dict[str, Any]:
    if case["verifier"] != "detection":
        return {}
    ratios = {name: value for name, value in case["weights"].items() if not name.endswith("_ratio")}
    params = {"threshold": case["threshold"], "det_reward_ratio": ratios}
    if case["image_grid_thw"]:
        params |= {"det_verifier_normalized": True, "image_grid_thw": case["image_grid_thw"]}
    return params


def test_all_golden_vectors_are_there() -> None:
    assert len(CASES) == 45


@pytest.mark.parametrize("case", CASES, ids=[str(index) for index in range(len(CASES))])
def test_golden_vector_is_reproduced(case: dict[str, Any]) -> None:
    verifier = VERIFIERS[canonical_name(case["verifier"])]()
    request = make_scoring_request(
        case["prediction"],
        case["ground_truth"],
        params_of(case),
        step=case["step"],
        total_steps=case["total_steps"],
    )
    if is_unusable(case["ground_truth"]):  # V-Triune scores 0 here, whatever the answer
        with pytest.raises(Unscorable):
            verifier.score(request)
        return
    components = verifier.score(request).components
    weights, expected = case["weights"], case["expected"]
    final = (components["accuracy"] * weights["accuracy_ratio"] + components["format"] * weights["format_ratio"]) / (
        weights["accuracy_ratio"] + weights["format_ratio"]
    )
    assert components["accuracy"] == pytest.approx(expected["accuracy"], abs=1e-9)
    assert components["format"] == pytest.approx(expected["format"], abs=1e-9)
    assert final == pytest.approx(expected["final"], abs=1e-9)

"""V-Triune's requests as lines: its golden vectors, and what its server makes of broken requests."""

import json
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest

from tristream.verifiers.offline.questions import LineError
from tristream.verifiers.offline.vtriune_lines import VTriuneLines, combine
from tristream.verifiers.offline.vtriune_request import parse_setting, threshold_at
from tristream.verifiers.pool.tasks import Verdict
from tristream.wire.events import Status

CASES: list[dict[str, Any]] = json.loads(
    (Path(__file__).parents[2] / "data/vtriune_golden.json").read_text(encoding="utf-8")
)
ZEROS = {"format_reward": 0.0, "accuracy_reward": 0.0, "reflection_reward": 0.0, "final_reward": 0.0}
RATIOS = ("accuracy_ratio", "format_ratio")
NUM_DETECTION_FIELDS = 4 + 29
ANSWERED = "<think>\nx\n</think>\n<answer>\n\\boxed{4}\n</answer>"


def request(**changes: Any) -> dict[str, Any]:
    parm = {"is_training": True, "step": 1, "total_steps": 100, **changes.pop("parm", {})}
    return {
        "response": r"\boxed{4}",
        "prompt": "2 + 2?",
        "answer": "4",
        "solution": r"\boxed{4}",
        "data_source": "sums",
        "reward_verifier": "mathverify",
        "reward_verifier_parm": json.dumps(parm),
        "format_ratio": 0.0,
        "accuracy_ratio": 1.0,
        **changes,
    }


def request_of(case: dict[str, Any]) -> dict[str, Any]:
    ratios = {name: weight for name, weight in case["weights"].items() if name not in RATIOS}
    normalized = case["image_grid_thw"] is not None
    parm: dict[str, Any] = {"step": case["step"], "total_steps": case["total_steps"], "image_path": None}
    parm |= {"image_grid_thw": case["image_grid_thw"], "det_verifier_normalized": normalized}
    return request(
        response=case["prediction"],
        solution=case["ground_truth"],
        reward_verifier=case["verifier"],
        parm=parm | {"det_reward_ratio": ratios},
        **{name: case["weights"][name] for name in RATIOS},
    )


def score(requests: list[dict[str, Any]], folder: Path, *options: str, exit_code: int = 0) -> list[dict[str, Any]]:
    source, target = folder / "in.jsonl", folder / "out.jsonl"
    source.write_text("".join(json.dumps(line) + "\n" for line in requests))
    command = [sys.executable, "-m", "tristream.cli", "score", str(source), "--out", str(target), "--workers", "1"]
    done = subprocess.run([*command, "--format", "vtriune", *options], check=False, capture_output=True, text=True)
    assert done.returncode == exit_code, done.stderr
    return [json.loads(line) for line in target.read_text().splitlines()]


def test_the_golden_vectors_pass_exactly_through_the_command(tmp_path: Path) -> None:
    by_threshold: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for case in CASES:
        by_threshold[case["threshold"] or "dynamic"].append(case)
    assert sum(map(len, by_threshold.values())) == 45
    for threshold, cases in by_threshold.items():
        answers = score([request_of(case) for case in cases], tmp_path, "--iou-threshold", threshold)
        for case, answer in zip(cases, answers, strict=True):
            rewards, expected = answer["rewards"], case["expected"]
            for name in ("format", "accuracy", "final"):
                assert rewards[f"{name}_reward"] == pytest.approx(expected[name], abs=1e-9), case
            assert rewards["reflection_reward"] == 0.0
            assert len(rewards) == (4 if case["verifier"] == "mathverify" else NUM_DETECTION_FIELDS)


BROKEN_PARMS: list[tuple[str, str]] = [
    ("mathverify", "no json"),
    ("mathverify", "[]"),
    ("mathverify", "null"),
    ("mathverify", '{"step": 1, "total_steps": 2}'),
    ("mathverify", '{"is_training": true, "step": 1, "total_steps": 2, "threshold": 0.5}'),
    ("mathverify", '{"is_training": true, "step": 1, "total_steps": 0}'),
    ("mathverify", '{"is_training": true, "step": null, "total_steps": 2}'),
    ("mathverify", '{"is_training": true, "step": [1], "total_steps": 2}'),
    ("nothing", '{"is_training": true, "step": 1, "total_steps": 2}'),
    ("detection", '{"is_training": true, "step": 1, "total_steps": 2, "det_reward_ratio": null}'),
]


@pytest.mark.parametrize(("verifier", "parm"), BROKEN_PARMS)
def test_what_its_constructor_refuses_is_answered_with_zeros(verifier: str, parm: str) -> None:
    line_format = VTriuneLines()
    question = line_format.read(request(reward_verifier=verifier, reward_verifier_parm=parm))
    assert question.known is not None
    assert line_format.write(question, question.known, None).fields == {"rewards": ZEROS}


@pytest.mark.parametrize(
    "changes",
    [{"response": None}, {"solution": 4}, {"reward_verifier_parm": {}}, {"format_ratio": "much"}, {"prompt": ["x"]}],
)
def test_what_its_payload_refuses_is_a_bad_line(changes: dict[str, Any]) -> None:
    with pytest.raises(LineError):
        VTriuneLines().read(request(**changes))
    lacking = request()
    del lacking[next(iter(changes))]
    if next(iter(changes)) != "format_ratio":
        with pytest.raises(LineError):
            VTriuneLines().read(lacking)


def test_absent_and_null_ratios_are_1_and_a_tenth() -> None:
    for ratios in ({"format_ratio": None, "accuracy_ratio": None}, {}):
        line = {name: value for name, value in request().items() if name not in RATIOS} | ratios
        assert VTriuneLines().read(line).weights == {"accuracy": 1.0, "format": 0.1}
    assert VTriuneLines().read(request(format_ratio="0.5", accuracy_ratio=0)).weights == {"accuracy": 0, "format": 0.5}


def test_weights_that_cancel_make_no_final_reward() -> None:
    assert combine(1.0, 1.0, 0.0, 0.0) == 0.0
    assert combine(1.0, 0.0, 1.0, -1.0) == 0.0
    assert combine(1.0, 0.0, 1.0, 0.1) == 1.0 * (1.0 / 1.1) + 0.0 * (0.1 / 1.1)


def test_steps_may_be_any_two_numbers() -> None:
    parms = {0.85: ("0", 3.5), 0.95: (0.11, 1), 0.99: (True, 1)}
    for threshold, (step, total) in parms.items():
        parm = {"is_training": False, "step": step, "total_steps": total, "det_reward_ratio": {"map": 1}}
        assert parse_setting("detection", json.dumps(parm), "dynamic").params["threshold"] == threshold
    assert [threshold_at(progress) for progress in (-1.0, 0.1, 0.100001, 0.25, 0.250001, 7.0)] == [
        *(0.85, 0.85, 0.95, 0.95, 0.99, 0.99)
    ]


def test_odd_requests_are_answered_in_their_places(tmp_path: Path) -> None:
    boxes = "<think>\nx\n</think>\n<answer>\n[{'bbox_2d': [0, 0, 90, 100], 'label': 'dog'}]\n</answer>"
    detection = {"reward_verifier": "detection", "response": boxes, "format_ratio": 0.1}
    ratio = {"iou_max_label_first": 1.0, "iou_completeness": 0.3}
    normalized = {"det_reward_ratio": ratio, "det_verifier_normalized": True}
    known = {
        "plain": (request(), 1.0, 0.0),
        "no such verifier": (request(reward_verifier="nothing"), 0.0, 0.0),
        "no truth": (request(response=ANSWERED, solution="", format_ratio=1.0), 0.0, 1.0),
        "no true boxes": (request(**detection, solution="none", parm={"det_reward_ratio": ratio}), 0.0, 1.0),
        "no weights": (
            request(**detection, solution=boxes, parm={"det_reward_ratio": dict.fromkeys(ratio, 0)}),
            0.0,
            1.0,
        ),
        "no ratio": (request(**detection, solution=boxes), 0.0, 1.0),
        "a null weight": (request(**detection, solution=boxes, parm={"det_reward_ratio": {"map": None}}), 0.0, 0.0),
        "a text as weight": (request(**detection, solution=boxes, parm={"det_reward_ratio": {"map": "1"}}), 0.0, 0.0),
        "too large a weight": (
            request(**detection, solution=boxes, parm={"det_reward_ratio": ratio | {"map": 2}}),
            1.0,
            1.0,
        ),
        "no grid": (request(**detection, solution=boxes, parm=normalized), 1.0, 1.0),
        "an empty grid": (request(**detection, solution=boxes, parm=normalized | {"image_grid_thw": []}), 1.0, 1.0),
        "texts as grid": (
            request(**detection, solution=boxes, parm=normalized | {"image_grid_thw": [["1", "2", "3"]]}),
            1.0,
            1.0,
        ),
        "half a grid": (request(**detection, solution=boxes, parm=normalized | {"image_grid_thw": [[1, 2]]}), 0.0, 0.0),
        "no area": (request(**detection, solution=boxes, parm=normalized | {"image_grid_thw": [[1, 0, 9]]}), 0.0, 0.0),
    }
    *answers, bad = score([*(line for line, _, _ in known.values()), {"response": "x"}], tmp_path, exit_code=1)
    for (name, (_, accuracy, form)), answer in zip(known.items(), answers, strict=True):
        rewards = answer["rewards"]
        assert (rewards["accuracy_reward"], rewards["format_reward"]) == (pytest.approx(accuracy), form), name
    assert answers[2]["rewards"]["final_reward"] == 0.5
    assert "error" in bad


def test_an_answer_that_hangs_earns_its_format() -> None:
    line_format = VTriuneLines()
    question = line_format.read(request(response=ANSWERED, format_ratio=1.0))
    late = Verdict(status=Status.TIMEOUT)
    assert line_format.write(question, late, None).fields["rewards"]["final_reward"] == 0.5

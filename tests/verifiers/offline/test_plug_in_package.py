"""The example package of verifiers, installed into a folder of its own and used from there."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[3] / "examples/plug_in_package"


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    source, target = (tmp_path_factory.mktemp(name) for name in ("source", "target"))
    shutil.copytree(PACKAGE, source / "package", ignore=shutil.ignore_patterns("build", "*.egg-info", "__pycache__"))
    options = ["--quiet", "--no-deps", "--no-index", "--no-build-isolation", "--target", str(target)]
    command = [sys.executable, "-m", "pip", "install", *options, str(source / "package")]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return target


def tristream(installed: Path, *arguments: str, given: str = "") -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "tristream.cli", *arguments],
        check=False,
        capture_output=True,
        text=True,
        input=given,
        env=os.environ | {"PYTHONPATH": str(installed)},
    )


def test_its_verifiers_are_found_by_name_and_score(installed: Path) -> None:
    lines = [
        {"text": "Four.", "verifier": "brief", "params": {"max_chars": 3}},
        {"text": "Four, please", "verifier": "judged@1"},
        {"text": " ", "verifier": "judged"},
        {"text": "a", "verifier": "distinct", "group": "g"},
        {"text": "a", "verifier": "distinct", "group": "g"},
        {"text": "b", "verifier": "distinct", "group": "g"},
    ]
    plug_ins = [word for name in ("brief", "judged", "distinct") for word in ("--plug-in", name)]
    done = tristream(installed, "score", "-", "--workers", "1", *plug_ins, given="\n".join(map(json.dumps, lines)))
    assert done.returncode == 0, done.stderr
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert [answer["status"] for answer in answers] == ["scored"] * 6
    assert [answer["final_reward"] for answer in answers] == [0.0, 1.0, None, 0.5, 0.5, 1.0]


@pytest.mark.parametrize("name", ["brief", "judged", "distinct"])
def test_its_verifiers_keep_the_contract(installed: Path, name: str) -> None:
    done = tristream(installed, "verifiers", "check", name)
    assert done.returncode == 0, done.stdout + done.stderr


def test_without_the_package_its_name_is_unknown(tmp_path: Path) -> None:
    done = tristream(tmp_path, "verifiers", "check", "brief")
    assert done.returncode == 2
    assert "unknown verifier 'brief'" in done.stderr

"""The calculator example as a user starts it: rollouts of several turns are trained, and their calls are told of."""

import subprocess
import sys
from pathlib import Path

import pytest

from stream_runs import ROOT, StreamRun

pytestmark = [pytest.mark.integration, pytest.mark.slow]
EXAMPLE = ROOT / "examples/calculator"


def test_a_run_with_an_environment_trains_on_rollouts_of_several_turns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("KAFKA_HOME", raising=False)
    run = StreamRun(tmp_path, steps=2, run_file=EXAMPLE / "run.toml", run__id="digits")
    code, output = run.start().finish()
    assert code == 0, output
    summary = run.summary()
    assert (summary["steps"], summary["groups"]["trained"]) == (2, 8)
    audit = run.audit()
    assert audit.returncode == 0, audit.stdout
    command = [sys.executable, str(EXAMPLE / "tool_share.py"), str(run.folder.path)]
    told = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    rows = [line.split() for line in told[1:]]
    assert [row[:3] for row in rows[:2]] == [["eval", "0", "128"], ["eval", "2", "128"]]
    split, until_step, _, called, *_ = rows[2]
    assert (split, until_step) == ("train", "10")
    assert 0 < float(called) < 1, "the warm start calls in some dialogues"

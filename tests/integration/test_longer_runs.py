"""A finished run that is given more steps goes on from its last checkpoint, as one run."""

from pathlib import Path

import pytest

from stream_runs import StreamRun

pytestmark = [pytest.mark.integration, pytest.mark.slow]


def test_a_finished_run_goes_on_to_more_steps_and_never_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KAFKA_HOME", raising=False)
    code, output = StreamRun(tmp_path, steps=2).start().finish()
    assert code == 0, output

    code, output = StreamRun(tmp_path, steps=2).start().finish()
    assert code == 2
    assert "this run is finished" in output
    code, output = StreamRun(tmp_path, steps=1).start().finish()
    assert code == 2
    assert "it has trained 2 steps already, and 1 are asked for" in output

    run = StreamRun(tmp_path, steps=4)
    code, output = run.start().finish()
    assert code == 0, output
    assert "resumed at step 2" in run.folder.log("learner").read_text()
    summary = run.summary()
    assert (summary["steps"], summary["groups"]["trained"], summary["groups"]["pending"]) == (4, 16, 0)
    for facts in summary["sources"].values():
        assert None not in (facts["eval_before"], facts["eval_after"])
    audit = run.audit()
    assert audit.returncode == 0, audit.stdout
    assert run.processes_left() == []

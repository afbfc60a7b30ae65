"""A short run of the digits example through all real parts, as a user starts it."""

import json
import os
from pathlib import Path

import pytest

from stream_runs import StreamRun

pytestmark = [pytest.mark.integration, pytest.mark.slow]

BROKERS = [
    "embedded",
    pytest.param(
        "kafka", marks=pytest.mark.skipif("KAFKA_HOME" not in os.environ, reason="KAFKA_HOME names no Apache Kafka")
    ),
]


@pytest.mark.parametrize("broker", BROKERS)
def test_a_run_trains_evaluates_and_accounts_for_every_group(
    broker: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if broker == "embedded":
        monkeypatch.delenv("KAFKA_HOME", raising=False)
    run = StreamRun(tmp_path, steps=3).start()
    run.wait_until(lambda: run.version >= 1)
    run.publish_malformed_rollout()
    run.wait_until(lambda: run.read_page("api/overview")["work"]["num_rollouts"] > 0)
    code, output = run.finish()
    assert code == 0, output
    summary = run.summary()
    assert summary["steps"] == 3
    assert summary["groups"]["trained"] == 12
    assert summary["groups"]["pending"] == 0
    assert summary["dead_letters"] == 1
    dropped = sum(summary["groups"]["dropped"].values())
    assert summary["groups"]["dispatched"] == 12 + dropped
    assert set(summary["sources"]) == {"digits_read", "digits_count", "digits_sum", "digits_find"}
    for facts in summary["sources"].values():
        assert 0.0 < facts["eval_before"] < 1.0
        assert 0.0 < facts["eval_after"] < 1.0
    assert summary["seconds"]["ready"] + summary["seconds"]["train"] <= summary["seconds"]["total"]
    assert "held-out evaluation, greedy" in output
    assert (run.folder / "report.html").stat().st_size > 100_000
    assert (run.folder / "checkpoints/step-000003/ledger.json").exists()
    assert run.audit().returncode == 0
    assert run.living_processes() == []


def test_the_audit_names_a_group_that_the_checkpoint_lost(tmp_path: Path) -> None:
    run = StreamRun(tmp_path, steps=1).start()
    code, output = run.finish()
    assert code == 0, output
    path = run.folder / "checkpoints/step-000001/ledger.json"
    ledger = json.loads(path.read_text())
    (start, end), *rest = ledger["settled"]
    path.write_text(json.dumps(ledger | {"settled": [[start, end - 1], *rest]}))
    audit = run.audit()
    assert audit.returncode == 1
    assert f"group {end - 1} was trained and the checkpoint does not know it" in audit.stdout


def test_a_finished_run_is_not_overwritten(tmp_path: Path) -> None:
    folder = tmp_path / "digits"
    folder.mkdir()
    (folder / "summary.json").write_text("{}")
    code, output = StreamRun(tmp_path, steps=3).start().finish()
    assert code == 2
    assert "this run is finished" in output
    assert list(folder.iterdir()) == [folder / "summary.json"]

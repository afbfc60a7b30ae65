"""A short run of the digits example through all real parts, as a user starts it."""

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from chaos_stream import only_in_full
from poisoned_rows import POISONED_ROWS, write_poisoned_rows
from stream_runs import StreamRun
from tristream.runtime.run_folder import RunFolder, checkpoint_step, ledger_file
from tristream.wire.codecs.batches import commit_from_json, commit_to_json
from tristream.wire.events import Part

pytestmark = [pytest.mark.integration, pytest.mark.slow]

BROKERS = [
    "embedded",
    pytest.param(  # on which, where there is one, the other runs of all tests are
        "kafka",
        marks=(
            only_in_full,
            pytest.mark.skipif("KAFKA_HOME" not in os.environ, reason="KAFKA_HOME names no Apache Kafka"),
        ),
    ),
]


@pytest.mark.parametrize("broker", BROKERS)
def test_a_run_over_bad_rows_trains_evaluates_and_accounts_for_every_group_and_row(
    broker: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if broker == "embedded":
        monkeypatch.delenv("KAFKA_HOME", raising=False)
    rows = write_poisoned_rows(tmp_path / "poisoned.parquet")
    run = StreamRun(tmp_path, steps=3, sources__0__train=rows, sources__0__on_bad_row="skip").start()
    run.wait_until(lambda: run.is_ready(Part.LEARNER) and run.is_ready(Part.MONITOR))
    with run.frozen(Part.LEARNER):  # so that the run cannot end before its page was looked at
        run.publish_malformed_rollout()
        run.wait_until(lambda: run.read_page("api/head")["work"]["num_rollouts"] > 0)
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
    assert run.folder.report.stat().st_size > 100_000
    assert checkpoint_step(run.folder.find_checkpoints()[-1]) == 3
    check_that_bad_rows_are_named(summary, output)
    assert run.audit().returncode == 0
    assert run.processes_left() == []
    check_that_the_audit_names_a_group_that_the_checkpoint_lost(run)


def check_that_bad_rows_are_named(summary: dict[str, Any], output: str) -> None:
    skipped = summary["skipped_rows"]
    assert [(row["file"], row["row"]) for row in skipped] == [("poisoned.parquet", number) for number in POISONED_ROWS]
    assert all(row["reason"] for row in skipped)
    for number in POISONED_ROWS:
        assert f"poisoned.parquet row {number} was left out: " in output


def check_that_the_audit_names_a_group_that_the_checkpoint_lost(run: StreamRun) -> None:
    path = ledger_file(run.folder.find_checkpoints()[-1])
    commit = commit_from_json(path.read_text())
    first, *rest = commit.ledger.settled
    settled = (replace(first, end=first.end - 1), *rest)
    path.write_text(commit_to_json(replace(commit, ledger=replace(commit.ledger, settled=settled))))
    audit = run.audit()
    assert audit.returncode == 1
    assert f"group {first.end - 1}" in audit.stdout


def test_a_finished_run_is_not_overwritten(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "digits")
    folder.path.mkdir()
    folder.summary.write_text("{}")
    code, output = StreamRun(tmp_path, steps=3).start().finish()
    assert code == 2
    assert "this run is finished" in output
    assert set(folder.path.iterdir()) == {folder.summary, folder.lock}


@only_in_full
def test_two_producers_on_one_machine_show_as_two(tmp_path: Path) -> None:
    def producers() -> list[str]:
        parts = run.read_page("api/status")["parts"]
        return [row["instance"] for row in parts if row["part"] == Part.PRODUCER and row["state"] == "ready"]

    run = StreamRun(tmp_path, steps=1000).start()
    run.wait_until(lambda: run.version >= 1)
    with run.one_more(Part.PRODUCER) as second:
        run.wait_until(lambda: len(producers()) == 2)
        assert len(set(producers())) == 2
        assert [name for name in producers() if name.endswith(f"-{second.pid}")]
    assert second.returncode == 0
    run.interrupt()
    assert run.finish()[0] == 130

"""The audit reads the archive or the brokers, the newest whole checkpoint and the database, and changes nothing."""

import hashlib
import shutil
from contextlib import closing
from pathlib import Path

import pytest
from typer.testing import CliRunner

from brokers import running_broker
from own_process import in_own_process
from played_runs import honest_run
from recorded_runs import RecordedRun, publish_log, records_of
from tristream.audit.audit import audit_cluster, audit_folder
from tristream.audit.database import is_held, open_shadow
from tristream.audit.standing import newest_checkpoint
from tristream.cli.main import app
from tristream.monitoring.store.clickhouse import open_client
from tristream.monitoring.store.client import Client
from tristream.monitoring.store.sink import Sink
from tristream.runtime.archive.writer import ArchiveWriter
from tristream.runtime.bus.memory import MemoryBus
from tristream.runtime.errors import UserError
from tristream.runtime.run_folder import RunFolder, ledger_file
from tristream.runtime.run_lock import lock_run
from tristream.wire.batches import Commit, CommittedStep
from tristream.wire.codecs.batches import commit_to_json
from tristream.wire.events import Fate, Group, Ledger, Outcome, Split
from tristream.wire.topics import ALL_TOPICS, EPOCH_HEADER, OUTCOMES


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return RunFolder(tmp_path)


def write_ledger(folder: RunFolder, name: str, text: str) -> None:
    path = ledger_file(folder.checkpoints / name)
    path.parent.mkdir(parents=True)
    path.write_text(text)


def make_commit(step: int, *unacknowledged: int) -> Commit:
    groups = [
        Group(run="demo", split=Split.TRAIN, number=number, source="words", sample_id=str(number), size=4)
        for number in unacknowledged
    ]
    outcomes = tuple(Outcome(group=group, fate=Fate.TRAINED, step=step, created_ns=1) for group in groups)
    steps = (CommittedStep(step=step, outcomes=outcomes),) if outcomes else ()
    return Commit(ledger=Ledger(step=step), steps=steps)


def fingerprint(folder: Path) -> dict[str, tuple[int, str]]:
    """Every file with its time and its checksum."""
    return {
        str(path): (path.stat().st_mtime_ns, hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "")
        for path in folder.rglob("*")
    }


def test_unfinished_and_replaced_checkpoints_do_not_count(folder: RunFolder) -> None:
    assert newest_checkpoint(folder) is None
    for name, step in (("step-000002", 2), ("step-000010", 10), ("step-000012.tmp", 12), ("step-000011.old", 11)):
        write_ledger(folder, name, commit_to_json(make_commit(step, 1, 3)))
    newest = newest_checkpoint(folder)
    assert newest is not None
    assert newest.step == 10
    assert newest.pending == {1: 10, 3: 10}


@pytest.mark.parametrize("text", ["{", "[]", '{"settled": [[0, 1]], "pending": []}', '{"ledger": {"settled": 5}}'])
def test_a_broken_ledger_is_named(folder: RunFolder, text: str) -> None:
    write_ledger(folder, "step-000001", text)
    with pytest.raises(UserError, match=r"step-000001/ledger\.json: not a ledger"):
        newest_checkpoint(folder)


def test_a_folder_without_a_run_is_refused(folder: RunFolder) -> None:
    with pytest.raises(UserError, match="not the folder of a run"):
        audit_folder(folder)


def test_a_run_with_neither_archive_nor_broker_is_refused(tmp_path: Path) -> None:
    run = honest_run(tmp_path)
    run.logs = []
    with pytest.raises(UserError, match="neither an archive of the log nor a broker"):
        audit_folder(run.write())


def test_the_command_says_what_was_checked_and_ends_with_0_or_1(tmp_path: Path) -> None:
    folder = honest_run(tmp_path / "whole").write()
    done = CliRunner().invoke(app, ["audit", str(folder)])
    assert done.exit_code == 0, done.output
    assert "whole steps, without gaps                   5  ok" in done.output
    assert "20 groups dispatched = 15 trained + 5 dropped" in done.output
    run = honest_run(tmp_path / "broken")
    run.remove(OUTCOMES, lambda outcome: outcome.step == 3)
    done = CliRunner().invoke(app, ["audit", str(run.write())])
    assert done.exit_code == 1
    assert "step 3: no group was trained" in done.output


@pytest.mark.parametrize("arguments", [[], ["folder", "--run", "run.toml"]])
def test_the_command_wants_a_folder_or_a_run_file(arguments: list[str]) -> None:
    done = CliRunner().invoke(app, ["audit", *arguments])
    assert isinstance(done.exception, UserError)


def test_nothing_in_the_folder_is_changed(tmp_path: Path) -> None:
    folder = honest_run(tmp_path).write()
    before = fingerprint(folder.path)
    assert audit_folder(folder).holds
    assert fingerprint(folder.path) == before


def on_memory_bus(run: RecordedRun) -> MemoryBus:
    """The log of a recorded run, fences left aside."""
    bus = MemoryBus(run.settings.run.id, num_partitions=2)
    topics = {topic.name: topic for topic in ALL_TOPICS}
    for record in records_of(run.logs[0]):
        if record.event:
            bus.publish_raw(topics[record.topic], record.key, record.event, record.headers)
    return bus


def monitor(run: RecordedRun, folder: RunFolder) -> None:
    """Let the monitor's sink write the log into the folder's database and archive."""
    bus = on_memory_bus(run)
    archive = ArchiveWriter(folder.archive, bus.log_id())
    with (
        closing(open_client(run.settings.monitoring, folder)) as client,
        closing(Sink(bus, client, flush_seconds=0.1, archive=archive)) as sink,
    ):
        sink.drain()


def delete_row(client: Client) -> None:
    client.command("SET mutations_sync = 2")
    client.command("ALTER TABLE rewards DELETE WHERE split = 'train' AND number = 3 AND rollout_index = 2")


@pytest.mark.slow
@in_own_process
def test_a_missing_row_of_the_database_is_found_and_its_files_stay_as_they_are(tmp_path: Path) -> None:
    run = honest_run(tmp_path)
    folder = run.write()
    shutil.rmtree(folder.archive)
    monitor(run, folder)
    before = fingerprint(folder.path)
    audit = audit_folder(folder)
    assert audit.holds, audit.account.violations
    assert not audit.checks[-1].is_skipped, audit.checks[-1].note
    assert audit.checks[-1].num_checked > 200
    assert fingerprint(folder.path) == before
    with closing(open_client(run.settings.monitoring, folder)) as client:
        delete_row(client)
    (finding,) = audit_folder(folder).account.violations
    assert finding == "topic rewards: 186 rows in the database, and 188 facts on the log"
    with lock_run(folder):
        assert audit_folder(folder).checks[-1].note == "the database is in use by another process"


def test_a_lock_is_seen_and_not_taken(folder: RunFolder) -> None:
    assert not is_held(folder.lock)
    with lock_run(folder):
        assert is_held(folder.lock)
    assert not is_held(folder.lock)
    lock_run(folder).close()


@in_own_process
def test_a_folder_that_is_no_database_is_skipped_with_its_reason(tmp_path: Path) -> None:
    folder = honest_run(tmp_path).write()
    folder.clickhouse.mkdir()
    (folder.clickhouse / "metadata").write_text("not a folder")
    audit = audit_folder(folder)
    assert audit.holds
    assert audit.checks[-1].is_skipped
    with pytest.raises(Exception, match="metadata"), open_shadow(folder.clickhouse):
        pass


@pytest.mark.integration
@pytest.mark.parametrize("kind", ["embedded", "kafka"])
def test_a_run_is_audited_on_its_brokers(kind: str, tmp_path: Path) -> None:
    run = honest_run(tmp_path)
    folder = run.write()
    with running_broker(kind, tmp_path) as address:
        bus = run.settings.bus.model_copy(update={"bootstrap_servers": address, "num_partitions": 2})
        settings = run.settings.model_copy(update={"bus": bus})
        nothing = audit_cluster(settings)
        assert any("nothing to audit" in violation for violation in nothing.account.violations)
        publish_to(settings.bus.bootstrap_servers, run)
        audit = audit_cluster(settings)
        assert audit.holds, audit.account.violations
        assert audit.account.num_trained == 15
        assert folder.archive.exists()


def publish_to(address: str, run: RecordedRun) -> None:
    publish_log(run, run.settings.bus.model_copy(update={"bootstrap_servers": address, "num_partitions": 2}))
    assert EPOCH_HEADER == "epoch"

"""Workers of verifiers that were added while a run goes on: started, kept, given up, and never a danger to the run."""

import hashlib
import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tristream.local.part_process import PartProcess
from tristream.local.verifier_words import describe_verifiers
from tristream.local.verifier_workers import VerifierWorkers, keep_code, worker_process
from tristream.runtime.bus.memory import MemoryBus
from tristream.runtime.errors import UserError
from tristream.runtime.run_folder import RunFolder, ledger_file
from tristream.wire.batches import Commit
from tristream.wire.codecs.batches import commit_to_json
from tristream.wire.events import Command, CommandKind, Interval, Ledger, Part, PartState, PartStatus, VerifierLoad
from tristream.wire.topics import COMMANDS

ADD, PROMOTE, RETIRE = CommandKind.ADD, CommandKind.PROMOTE, CommandKind.RETIRE


def command(kind: CommandKind, name: str, number: int = 0, **changes: Any) -> Command:
    verifier, _, version = name.partition("@")
    return Command(
        run="demo", id=f"{kind}-{name}/from/{number}", kind=kind, verifier=verifier, version=version,
        from_number=number, created_ns=1, **changes,
    )  # fmt: skip


class Play:
    """Workers of a run whose processes do what a piece of Python says."""

    def __init__(
        self, folder: RunFolder, monkeypatch: pytest.MonkeyPatch, code: str = "import time; time.sleep(60)"
    ) -> None:
        self.bus = MemoryBus("demo").as_part("dispatcher")
        self.bus.take_over([COMMANDS], 1)
        self.said: list[str] = []
        self.code = code
        self.made: dict[str, PartProcess] = {}
        self._folder, self._monkeypatch = folder, monkeypatch
        self.workers = VerifierWorkers(folder, self.bus.reader([COMMANDS]), self._make, self.said.append)

    def _make(self, name: str) -> PartProcess:
        process = worker_process(name, self._folder)
        self._monkeypatch.setattr(process, "_command", [sys.executable, "-c", self.code])
        self.made[name] = process
        return process

    def tell(self, *commands: Command) -> None:
        for each in commands:
            self.bus.publish(COMMANDS, each)

    def watch_until(self, condition: Callable[[], bool], seconds: float = 10.0) -> list[str]:
        deadline, died = time.monotonic() + seconds, []
        while not condition():
            assert time.monotonic() < deadline, self.said
            died += self.workers.watch()
            time.sleep(0.05)
        return died

    def stop(self) -> None:
        for process in self.workers.processes():
            process.stop(5.0)


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    folder = RunFolder(tmp_path / "run")
    folder.logs.mkdir(parents=True)
    return folder


def test_a_worker_is_the_command_of_its_version_with_a_log_of_its_own(folder: RunFolder) -> None:
    process = worker_process("brief@1", folder)
    assert process._command[-5:] == ["verify", "--run", str(folder.run_file), "--verifier", "brief@1"]
    assert process._log == folder.logs / "verifier-brief@1.log"


def test_only_what_the_run_has_answered_gets_a_worker(folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    play = Play(folder, monkeypatch)
    try:
        play.bus.as_part("a person").publish(COMMANDS, command(ADD, "asked@1"))
        play.tell(command(ADD, "refused@1", refusal="no"), command(ADD, "brief@1"), command(PROMOTE, "brief@1", 4))
        play.workers.read_commands()
        assert list(play.made) == ["brief@1"]
        play.tell(command(ADD, "tone@1", 5))
        play.watch_until(lambda: "tone@1" in play.made)
        assert play.said == ["brief@1 is added; its worker starts", "tone@1 is added; its worker starts"]
        assert [each.kind for each in play.workers.commands.values()] == [ADD, PROMOTE, ADD]
    finally:
        play.stop()


def test_a_worker_that_was_killed_is_started_again_and_one_that_is_done_is_not(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    play = Play(folder, monkeypatch)
    try:
        play.tell(command(ADD, "brief@1"))
        play.workers.read_commands()
        process = play.made["brief@1"]
        first, instance = process.pid, process.instance
        assert first is not None
        os.kill(first, signal.SIGKILL)
        assert play.watch_until(lambda: process.pid not in (None, first)) == [instance]
        assert play.said[-1] == "verifier-brief@1 ended with signal SIGKILL; starting it again"
        monkeypatch.setattr(process, "_command", [sys.executable, "-c", ""])
        process.stop(5.0)
        process.start()
        play.watch_until(lambda: process.is_done)
        num_said = len(play.said)
        play.workers.watch()
        assert process.pid is None
        assert len(play.said) == num_said
    finally:
        play.stop()


def test_a_worker_that_refuses_its_input_is_given_up_and_the_run_goes_on(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    play = Play(folder, monkeypatch, code="import sys; print('tristream: its code is another'); sys.exit(2)")
    try:
        play.tell(command(ADD, "brief@1"))
        play.workers.read_commands()
        died = play.watch_until(lambda: "given up" in play.said[-1])
        assert died == [play.made["brief@1"].instance]
        assert play.said[-1].startswith(
            "the worker of brief@1 is given up, and the run goes on without it: verifier-brief@1"
        )
        assert "its code is another" in play.said[-1]
        assert play.workers.watch() == []
        play.code = "import time; time.sleep(60)"
        play.tell(command(RETIRE, "brief@1", 4), command(ADD, "brief@1", 5))
        play.watch_until(lambda: play.made["brief@1"].pid is not None)
    finally:
        play.stop()


def settle(folder: RunFolder, num_groups: int) -> None:
    path = ledger_file(folder.checkpoint(1))
    path.parent.mkdir(parents=True)
    ledger = Ledger(step=1, settled=(Interval(start=0, end=num_groups),))
    path.write_text(commit_to_json(Commit(ledger=ledger, steps=())))


@pytest.mark.parametrize(("num_settled", "is_started"), [(9, False), (7, True)])
def test_a_resumed_run_starts_a_retired_version_only_if_groups_may_still_need_it(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch, num_settled: int, is_started: bool
) -> None:
    settle(folder, num_settled)
    play = Play(folder, monkeypatch)
    try:
        play.tell(command(ADD, "brief@1"), command(PROMOTE, "brief@1", 2), command(RETIRE, "brief@1", 8))
        play.workers.read_commands()
        assert ("brief@1" in play.made) is is_started
    finally:
        play.stop()


def test_the_file_of_a_verifier_is_kept_as_it_was_added(folder: RunFolder, tmp_path: Path) -> None:
    path = tmp_path / "brief.py"
    path.write_text("first")
    added = command(ADD, "brief@1", entry_point=f"{path}:brief", code_sha256=hashlib.sha256(b"first").hexdigest())
    keep_code(added, folder)
    kept = folder.verifier_file("brief@1")
    assert (kept, kept.read_text()) == (folder.path / "verifiers/brief@1.py", "first")
    path.write_text("second")
    keep_code(added, folder)
    assert kept.read_text() == "first"
    kept.unlink()
    with pytest.raises(UserError, match=r"brief\.py: it was changed after brief@1 was added; raise its version"):
        keep_code(added, folder)
    path.unlink()
    with pytest.raises(UserError, match=r"brief\.py: No such file or directory"):
        keep_code(added, folder)
    keep_code(replace(added, entry_point="brief:brief", code_sha256=""), folder)


def test_a_verifier_whose_file_is_gone_has_no_worker_and_that_is_said(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    play = Play(folder, monkeypatch)
    play.tell(command(ADD, "brief@1", entry_point=f"{tmp_path}/gone.py:brief", code_sha256="aa"))
    play.workers.read_commands()
    assert (play.made, len(play.said)) == ({}, 1)
    assert play.said[0].startswith("brief@1 has no worker: ")


def test_what_was_added_is_shown_with_what_it_is_for() -> None:
    load = (
        VerifierLoad(verifier="brief", version="1", num_scored=7),
        VerifierLoad(verifier="math", version="2", num_scored=1),
    )
    worker = PartStatus(
        run="demo", part=Part.VERIFIER, instance="w", state=PartState.READY, since_ns=1, started_ns=1, created_ns=1,
        verifiers=load,
    )  # fmt: skip
    commands = [command(ADD, "brief@1"), command(ADD, "brief@2")]
    names, statuses = ["sums", "counts"], {Part.VERIFIER: [worker]}
    assert describe_verifiers([], statuses, names) == ""
    assert describe_verifiers(commands, statuses, names) == (
        "verifiers: brief@1 shadow, brief@2 shadow (no worker serves it)"
    )
    commands.append(command(PROMOTE, "brief@1", 3, sources=("sums",), weights={"accuracy": 1.0}))
    assert describe_verifiers(commands, statuses, names).startswith("verifiers: brief@1 active in sums, brief@2")
    commands.append(command(RETIRE, "brief@1", 4))
    assert describe_verifiers(commands, statuses, names).startswith("verifiers: brief@1 retiring, ")
    assert describe_verifiers(commands, {}, names) == "verifiers: brief@2 shadow (no worker serves it)"

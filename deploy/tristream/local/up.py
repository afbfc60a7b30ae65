"""``tristream up``: a whole run on one machine, every part a process, every address a free port.

    check inputs -> prepare folder -> broker -> parts -> ready -> train ... -> done -> stop in order -> report

A part that crashes is started again; a part that refuses its input ends the run. Stopping goes with
the stream, so that each part can hand on what it has: the learner checkpoints and commits while the
assembler lives, and the monitor leaves last, when everything is written.
"""

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, TextIO

from tristream.audit.audit import SUMMARY_NAME, account_lines
from tristream.config.run_file import RunFile
from tristream.local.broker import Broker, free_port, start_broker
from tristream.local.held_out import HeldOut
from tristream.local.part_process import PartProcess
from tristream.local.preflight import check_inputs, prepare_folder
from tristream.local.progress import Progress
from tristream.local.results import REPORT_NAME, before_and_after, write_results
from tristream.runtime.errors import UserError
from tristream.runtime.status import read_status

PART_COMMANDS = {
    "monitor": "monitor",
    "verifier": "verify",
    "assembler": "assemble",
    "learner": "learn",
    "producer": "produce",
    "dispatcher": "dispatch",
}
"""Parts in the order in which they are started."""

STOP_ORDER = ("dispatcher", "learner", "producer", "verifier", "assembler", "monitor")
FINISHING_PARTS = ("learner", "dispatcher")
STOP_TIMEOUT_SECONDS = 30.0
WATCH_SECONDS = 0.25
INTERRUPTED_EXIT_CODE = 130


@dataclass(slots=True)
class LocalRun:
    """A run on this machine."""

    settings: RunFile
    progress: Progress
    stop: threading.Event = field(default_factory=threading.Event)
    broker: Broker | None = None
    lock: TextIO | None = None
    """Held until the results are written."""
    parts: dict[str, PartProcess] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    """Duration of each phase so far: ready, train, stop, and the total."""

    def run(self) -> bool:
        """Run to the end; returns whether the run is complete, False if it was interrupted."""
        started = time.monotonic()
        check_inputs(self.settings)
        self.settings = with_local_addresses(self.settings)
        run_file, self.lock = prepare_folder(self.settings)
        previous = {number: signal.signal(number, self._request_stop) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            with self._phase("ready"):
                self._start(run_file)
                self._watch_until_ready()
            with self._phase("train"):
                return self._watch_until_done()
        finally:
            self.progress.close()
            with self._phase("stop"):
                self._stop_in_order()
            self.seconds["total"] = time.monotonic() - started
            for number, handler in previous.items():
                signal.signal(number, handler)

    @property
    def is_done(self) -> bool:
        """Whether the last policy is evaluated, and the last checkpoint written and its outcomes published."""
        return all(self.parts[part].is_done for part in FINISHING_PARTS)

    @contextmanager
    def _phase(self, name: str) -> Iterator[None]:
        started = time.monotonic()
        try:
            yield
        finally:
            self.seconds[name] = time.monotonic() - started

    def _request_stop(self, _number: int, _frame: FrameType | None) -> None:
        self.progress.say("stopping every part in order, with a checkpoint")
        self.stop.set()

    def _start(self, run_file: Path) -> None:
        logs = self.settings.run.folder / "logs"
        if not self.settings.bus.bootstrap_servers:
            self.broker = start_broker(logs)
            self.progress.say(f"{self.broker.kind} broker on {self.broker.bootstrap_servers}")
            address = {"bootstrap_servers": self.broker.bootstrap_servers, "durable": self.broker.durable}
            bus = self.settings.bus.model_copy(update=address)
            self.settings = self.settings.model_copy(update={"bus": bus})
            run_file.write_text(self.settings.model_dump_json(indent=2), encoding="utf-8")
        for part, command in PART_COMMANDS.items():
            self.parts[part] = PartProcess(part, command, run_file, logs, finishes=part in FINISHING_PARTS)
            self.parts[part].start()

    def _watch_until_ready(self) -> None:
        while not self.stop.is_set():
            self._watch()
            statuses = self._statuses()
            missing = {
                part: status for part, status in statuses.items() if status.get("state") not in ("ready", "done")
            }
            self.progress.show_starting(missing)
            if not missing or (self.is_done and "monitor" not in missing):
                self.progress.say(f"ready; live page: {statuses['monitor'].get('url', '')}")
                return
            self.stop.wait(WATCH_SECONDS)

    def _watch_until_done(self) -> bool:
        rounds = HeldOut(self.progress.say)
        while not self.stop.is_set() and not self.is_done:
            self._watch()
            statuses = self._statuses()
            rounds.update(str(statuses["monitor"].get("url", "")), statuses["dispatcher"].get("evaluated", ()))
            self.progress.show(statuses, rounds.sources)
            self.stop.wait(WATCH_SECONDS)
        return self.is_done

    def _watch(self) -> None:
        for part in self.parts.values():
            news = part.watch()
            if news:
                self.progress.say(news)
        if self.parts["learner"].is_done and self._statuses()["assembler"].get("attached") is False:
            self.parts["learner"].start()  # a new assembler reads nothing until a learner says where it stands
        if self.broker is not None and self.broker.process.poll() is not None:
            log = self.settings.run.folder / "logs/broker.log"
            raise UserError(
                f"the {self.broker.kind} broker ended", where=str(log), remedy="the same command resumes the run"
            )

    def _statuses(self) -> dict[str, dict[str, Any]]:
        folder = self.settings.status_folder
        return {part: read_status(folder, part) or {"state": "starting"} for part in self.parts}

    def _stop_in_order(self) -> None:
        for part in STOP_ORDER:
            if part in self.parts:
                self.parts[part].stop(STOP_TIMEOUT_SECONDS)
        if self.broker is not None:
            self.broker.stop()


def run_locally(settings: RunFile, *, again: bool = False) -> int:
    """Run to the end and write the results; returns the exit code.

    Args:
        settings: the run.
        again: start a finished run anew under the next free id.

    Raises:
        UserError: an input, the folder or an address cannot be used.
    """
    progress = Progress()
    run = LocalRun(with_free_id(settings) if again else settings, progress)
    if not run.run():
        progress.say("stopped; the same command resumes the run")
        return INTERRUPTED_EXIT_CODE
    progress.say("writing the report")
    summary, account = write_results(run.settings, run.seconds)
    progress.print(before_and_after(summary["sources"]))
    for line in account_lines(account):
        progress.say(line)
    folder = run.settings.run.folder
    progress.say(f"{run.seconds['total']:.0f} s; {folder / SUMMARY_NAME} and {folder / REPORT_NAME}")
    return 0 if account.balances else 1


def with_free_id(settings: RunFile) -> RunFile:
    """Give a finished run the first id of ID, ID-2, ID-3, ... that is not finished."""
    run, number = settings.run, 1
    while (run.folder / SUMMARY_NAME).exists():
        number += 1
        run = settings.run.model_copy(update={"id": f"{settings.run.id}-{number}"})
    return settings.model_copy(update={"run": run})


def with_local_addresses(settings: RunFile) -> RunFile:
    """Give the assembler a free port of this machine, unless the run file names one of its own."""
    default = type(settings.assembly).model_fields["address"].default
    if settings.assembly.address != default:
        return settings
    assembly = settings.assembly.model_copy(update={"address": f"127.0.0.1:{free_port()}"})
    return settings.model_copy(update={"assembly": assembly})

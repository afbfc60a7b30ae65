"""``tristream up``: a whole run on one machine, every part a process, every address a free port.

    check inputs -> prepare folder -> broker -> topics -> parts -> ready -> train ... -> done -> stop in order -> report

A part that crashes is started again; a part that refuses its input ends the run. What the parts do is known from
their statuses on the bus. Stopping goes with the stream, so that each part can hand on what it has: the learner
checkpoints and commits while the assembler lives, and the monitor leaves last, when everything is written.
"""

import logging
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from types import FrameType
from typing import TextIO

from tristream.audit.audit import account_lines
from tristream.cli.parts import PART_COMMANDS
from tristream.config.run_file import RunFile
from tristream.local.broker import Broker, free_port, start_broker
from tristream.local.held_out import HeldOut
from tristream.local.part_process import PartProcess
from tristream.local.part_statuses import PartStatuses, follow_statuses
from tristream.local.preflight import check_inputs, prepare_folder, write_run_file
from tristream.local.progress_display import ProgressDisplay
from tristream.local.results import before_and_after, write_results
from tristream.runtime.errors import UserError
from tristream.wire.events import Part, PartState

START_ORDER = tuple(reversed(Part))
"""Against the stream, so that who reads is there before who writes."""
STOP_ORDER = (Part.DISPATCHER, Part.LEARNER, Part.PRODUCER, Part.VERIFIER, Part.ASSEMBLER, Part.MONITOR)
FINISHING_PARTS = (Part.LEARNER, Part.DISPATCHER)
STOP_TIMEOUT_SECONDS = 30.0
WATCH_SECONDS = 0.25
INTERRUPTED_EXIT_CODE = 130


@dataclass(slots=True)
class LocalRun:
    """A run on this machine."""

    settings: RunFile
    display: ProgressDisplay
    stop: threading.Event = field(default_factory=threading.Event)
    broker: Broker | None = None
    """The run's own broker, unless the run file names another."""
    lock: TextIO | None = None
    """Held until the results are written."""
    parts: dict[Part, PartProcess] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    """Duration of each phase so far: ready, train, stop, and the total."""

    def run(self) -> bool:
        """Run to the end; returns whether the run is complete, False if it was interrupted."""
        started = time.monotonic()
        check_inputs(self.settings)
        self.settings = with_local_addresses(self.settings)
        self.lock = prepare_folder(self.settings)
        previous = {number: signal.signal(number, self._request_stop) for number in (signal.SIGINT, signal.SIGTERM)}
        cleanup = ExitStack()
        try:
            with self._phase("ready"):
                statuses = self._start(cleanup)
                self._watch_until_ready(statuses)
            with self._phase("train"):
                return self._watch_until_done(statuses)
        finally:
            self.display.close()
            with self._phase("stop"):
                cleanup.close()
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
        self.display.say("stopping every part in order, with a checkpoint")
        self.stop.set()

    def _start(self, cleanup: ExitStack) -> PartStatuses:
        """Start broker and parts; ``cleanup`` ends them in the reverse order."""
        folder = self.settings.run.folder
        if not self.settings.bus.bootstrap_servers:
            self.broker = start_broker(folder.logs)
            cleanup.callback(self.broker.stop)
            self.display.say(f"{self.broker.kind} broker on {self.broker.bootstrap_servers}")
            address = {"bootstrap_servers": self.broker.bootstrap_servers, "durable": self.broker.durable}
            bus = self.settings.bus.model_copy(update=address)
            self.settings = self.settings.model_copy(update={"bus": bus})
            write_run_file(self.settings)
        statuses = cleanup.enter_context(follow_statuses(self.settings))
        cleanup.callback(self._stop_parts)
        for part in START_ORDER:
            command = PART_COMMANDS[part].name
            self.parts[part] = PartProcess(part, command, folder, finishes=part in FINISHING_PARTS)
            self.parts[part].start()
        return statuses

    def _stop_parts(self) -> None:
        processes = [self.parts[part] for part in STOP_ORDER if part in self.parts]
        if self.broker is None or self.broker.is_running:
            for process in processes:
                process.stop(STOP_TIMEOUT_SECONDS)
            return
        # Nothing can be handed on: all at once, so that the learner's checkpoint is all that is waited for.
        deadline = time.monotonic() + STOP_TIMEOUT_SECONDS
        for process in processes:
            process.ask_to_stop()
        for process in processes:
            process.stop(max(0.0, deadline - time.monotonic()))

    def _watch_until_ready(self, statuses: PartStatuses) -> None:
        while not self.stop.is_set():
            self._watch(statuses)
            newest = {part: statuses.newest(part) for part in START_ORDER}
            missing = {
                part: status.waiting_for if status else ""
                for part, status in newest.items()
                if status is None or status.state is PartState.STARTING
            }
            self.display.show_starting(missing)
            if not missing or (self.is_done and Part.MONITOR not in missing):
                self.display.say(f"ready; live page: {_page_address(statuses)}")
                return
            self.stop.wait(WATCH_SECONDS)

    def _watch_until_done(self, statuses: PartStatuses) -> bool:
        rounds = HeldOut(self.display.say)
        while not self.stop.is_set() and not self.is_done:
            self._watch(statuses)
            dispatcher = statuses.newest(Part.DISPATCHER)
            num_rounds = dispatcher.measures.get("num_rounds_answered", 0.0) if dispatcher else 0.0
            rounds.update(_page_address(statuses), int(num_rounds))
            self.display.show(statuses.by_part(), rounds.sources)
            self.stop.wait(WATCH_SECONDS)
        return self.is_done

    def _watch(self, statuses: PartStatuses) -> None:
        statuses.update()
        for part, process in self.parts.items():
            news = process.watch()
            if news:
                self.display.say(news)
                statuses.forget(part, process.instance)
        assembler = statuses.newest(Part.ASSEMBLER)
        if self.parts[Part.LEARNER].is_done and assembler and assembler.measures.get("is_attached") == 0.0:
            self.parts[Part.LEARNER].start()  # a new assembler reads nothing until a learner says where it stands
        if self.broker is not None and not self.broker.is_running:
            log = self.settings.run.folder.log("broker")
            raise UserError(
                f"the {self.broker.kind} broker ended", where=str(log), remedy="the same command resumes the run"
            )


def _page_address(statuses: PartStatuses) -> str:
    """Address of the live page; empty while the monitor has not told it."""
    monitor = statuses.newest(Part.MONITOR)
    return monitor.address if monitor else ""


def run_locally(settings: RunFile, *, again: bool = False) -> int:
    """Run to the end and write the results; returns the exit code.

    Args:
        settings: the run.
        again: start a finished run anew under the next free id.

    Raises:
        UserError: an input, the folder or an address cannot be used.
    """
    # A broker that goes is told in one line; the client would tell it again and again into the picture.
    logging.getLogger("kafka").setLevel(logging.CRITICAL)
    display = ProgressDisplay()
    run = LocalRun(with_free_id(settings) if again else settings, display)
    if not run.run():
        display.say("stopped; the same command resumes the run")
        return INTERRUPTED_EXIT_CODE
    display.say("writing the report")
    summary, account = write_results(run.settings, run.seconds)
    display.print(before_and_after(summary["sources"]))
    for line in account_lines(account):
        display.say(line)
    folder = run.settings.run.folder
    display.say(f"{run.seconds['total']:.0f} s; {folder.summary} and {folder.report}")
    return 0 if account.balances else 1


def with_free_id(settings: RunFile) -> RunFile:
    """Give a finished run the first id of ID, ID-2, ID-3, ... that is not finished."""
    run, number = settings.run, 1
    while run.folder.summary.exists():
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

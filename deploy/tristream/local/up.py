"""``tristream up``: a whole run on one machine, every part a process, every address a free port.

    check inputs -> prepare folder -> broker -> topics -> parts -> ready -> train ... -> done -> stop in order -> report

A part that crashes is started again; a part that refuses its input ends the run. A broker or a database that does not
answer is waited for and named; a broker of the run's own that died is started again with its data, or, if it had none,
ends the run, which the same command resumes. What the parts do is known from their statuses on the bus, and from
their status files while the bus is silent. Stopping goes with the stream, so that each part can hand on what it has:
the learner checkpoints and commits while the assembler lives, and the monitor leaves last, when everything is written.
"""

import logging
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from types import FrameType
from typing import TextIO

from tristream.audit.audit import account_lines
from tristream.cli.parts import PART_COMMANDS
from tristream.config.run_file import RunFile
from tristream.config.secrets import secret_environment
from tristream.local.broker import Broker, free_port, start_broker
from tristream.local.broker_keeper import BrokerKeeper
from tristream.local.extension import extend_command, require_enough_steps, steps_before
from tristream.local.held_out import HeldOut
from tristream.local.last_writes import DATABASE, finish_monitor
from tristream.local.part_process import PartProcess
from tristream.local.part_statuses import PartStatuses, follow_run
from tristream.local.preflight import check_inputs, prepare_folder
from tristream.local.producer_python import producer_python
from tristream.local.progress_display import Progress, ProgressDisplay, measures_of
from tristream.local.resolved_run import write_run_file
from tristream.local.results import (
    before_and_after,
    change_lines,
    components_before_and_after,
    lost_lines,
    write_results,
)
from tristream.local.source_fates import SourceFates
from tristream.local.status_files import read_status_files
from tristream.local.verifier_words import describe_verifiers
from tristream.local.verifier_workers import VerifierWorkers, worker_process
from tristream.runtime.errors import StoppedError
from tristream.wire.events import Command, Part, PartState

START_ORDER = tuple(reversed(Part))
"""Against the stream, so that who reads is there before who writes."""
STOP_ORDER = (Part.DISPATCHER, Part.LEARNER, Part.PRODUCER, Part.VERIFIER, Part.ASSEMBLER, Part.MONITOR)
FINISHING_PARTS = (Part.LEARNER, Part.DISPATCHER)
STOP_TIMEOUT_SECONDS = 30.0
SILENT_BROKER_STOP_SECONDS = 10.0
"""Nothing can be handed on without a broker, so this is what a checkpoint may take."""
SAY_SECONDS = 30.0
"""How often something that keeps the run waiting is said again."""
WATCH_SECONDS = 0.25
EMBEDDED_LINGER_SECONDS = 0.05
"""Each batch is an object of its own in the embedded broker, which looks through all of a partition at every fetch."""
EMBEDDED_NUM_PARTITIONS = 2
"""So that a second producer has work; four cost dispatcher, assembler, monitor and broker a tenth more of a step."""
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
    workers: VerifierWorkers | None = None
    """Those of verifiers that were added while the run goes on."""
    seconds: dict[str, float] = field(default_factory=dict)
    """Duration of each phase so far: ready, train, stop, and the total."""
    silent_seconds: float = 0.0
    """For how long the broker has not answered."""
    is_complete: bool = False
    _keeper: BrokerKeeper | None = None
    _said: tuple[str, float] = ("", 0.0)

    def run(self) -> bool:
        """Run to the end; returns whether the run is complete, False if it was interrupted.

        Raises:
            UserError: an input, the folder or an address cannot be used.
            TryAgainError: the run's own broker ended, and its log with it.
        """
        started = time.monotonic()
        check_inputs(self.settings)
        folder = self.settings.run.folder
        require_enough_steps(folder, self.settings.run.steps)
        commands = extend_command(self.settings, steps_before(folder))
        self.settings = with_local_addresses(self.settings)
        self.lock = prepare_folder(self.settings)
        previous = {number: signal.signal(number, self._request_stop) for number in (signal.SIGINT, signal.SIGTERM)}
        cleanup = ExitStack()
        try:
            with self._phase("ready"):
                statuses = self._start(cleanup, commands)
                self._watch_until_ready(statuses)
            with self._phase("train"):
                self.is_complete = self._watch_until_done(statuses)
        except StoppedError:
            pass  # interrupted before there was anything to watch
        finally:
            self.display.close()
            with self._phase("stop"):
                cleanup.close()
            self.seconds["total"] = time.monotonic() - started
            for number, handler in previous.items():
                signal.signal(number, handler)
        return self.is_complete

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

    def _start(self, cleanup: ExitStack, commands: Sequence[Command]) -> PartStatuses:
        """Start broker and parts; ``cleanup`` ends them in the reverse order."""
        folder = self.settings.run.folder
        if not self.settings.bus.bootstrap_servers:
            self._start_broker(cleanup)
        follow = follow_run(self.settings, commands, say=self._say_now_and_then, stop=self.stop)
        statuses, given = cleanup.enter_context(follow)
        cleanup.callback(self._stop_parts)
        secrets = secret_environment(self.settings)
        make_process = partial(worker_process, folder=folder, secrets=secrets)
        self.workers = VerifierWorkers(folder, given, make_process, self.display.say)
        for part in START_ORDER:
            command, finishes = PART_COMMANDS[part].name, part in FINISHING_PARTS
            python = producer_python(self.settings.rollout.engine) if part is Part.PRODUCER else None
            self.parts[part] = PartProcess(part, command, folder, finishes=finishes, secrets=secrets, python=python)
            self.parts[part].start()
        self.workers.read_commands()
        return statuses

    def _start_broker(self, cleanup: ExitStack) -> None:
        """Start the run's own broker; what is on it goes into the run's folder too, which outlives it."""
        self.broker = broker = start_broker(self.settings.run.folder.logs)
        # One that is frozen would be waited for.
        cleanup.callback(lambda: broker.kill() if self._is_broker_away else broker.stop())
        self.display.say(f"{broker.kind} broker on {broker.bootstrap_servers}")
        self._keeper = BrokerKeeper(broker, self.display.say, self.stop)
        self.settings = with_own_broker(self.settings, broker)
        write_run_file(self.settings)

    def _stop_parts(self) -> None:
        added = self.workers.processes() if self.workers is not None else []
        processes = [self.parts[part] for part in STOP_ORDER if part in self.parts]
        if not self._is_broker_away:
            for process in processes:
                if process.part is Part.VERIFIER:
                    _stop_together(added, STOP_TIMEOUT_SECONDS)
                try:
                    if process.part is Part.MONITOR and self.is_complete:
                        self._finish_monitor(process)
                finally:
                    process.stop(STOP_TIMEOUT_SECONDS)
            return
        # Nothing can be handed on: all at once, so that the learner's checkpoint is all that is waited for.
        _stop_together([*processes, *added], SILENT_BROKER_STOP_SECONDS)

    def _finish_monitor(self, process: PartProcess) -> None:
        folder, say = self.settings.run.folder, self._say_now_and_then
        finish_monitor(process, folder, say, self.stop, watch_broker=self._watch_broker)

    def _watch_broker(self) -> None:
        if self._keeper is not None:
            self._keeper.watch()

    @property
    def _is_broker_away(self) -> bool:
        return self.silent_seconds > 0 or (self.broker is not None and not self.broker.is_running)

    def _watch_until_ready(self, statuses: PartStatuses) -> None:
        while not self.stop.is_set():
            self._watch(statuses)
            newest = {part: statuses.newest(part) for part in START_ORDER}
            missing = {
                part: status.waiting_for if status else ""
                for part, status in newest.items()
                if status is None or status.state is PartState.STARTING
            }
            if set(missing) == {Part.MONITOR} and missing[Part.MONITOR].startswith(DATABASE):
                self.display.say(f"ready without a live page: the monitor waits for {missing[Part.MONITOR]}")
                return
            self.display.show_starting(missing)
            self._say_now_and_then(self._trouble)
            if not missing or (self.is_done and Part.MONITOR not in missing):
                self.display.say(f"ready; live page: {_page_address(statuses)}")
                return
            self.stop.wait(WATCH_SECONDS)

    def _watch_until_done(self, statuses: PartStatuses) -> bool:
        rounds, fates = HeldOut(self.display.say), SourceFates()
        while not self.stop.is_set() and not self.is_done:
            self._watch(statuses)
            by_part, page = statuses.by_part(), _page_address(statuses)
            dispatcher = measures_of(by_part, Part.DISPATCHER)
            rounds.update(page, int(dispatcher.get("num_rounds_answered", 0.0)))
            shown = fates.update(page, dispatcher)
            self.display.show(
                Progress(
                    statuses=by_part,
                    held_out=rounds.sources,
                    fates=shown,
                    verifiers=self._describe_verifiers(statuses),
                    trouble=self._trouble,
                )
            )
            self.stop.wait(WATCH_SECONDS)
        return self.is_done

    def _watch(self, statuses: PartStatuses) -> None:
        statuses.update()
        self._watch_broker()
        run = self.settings.run
        self.silent_seconds = statuses.find_silence(partial(read_status_files, run.folder.status, run.id))
        for part, process in self.parts.items():
            news = process.watch()
            if news:
                self.display.say(news)
                statuses.forget(part, process.instance)
        for instance in self.workers.watch() if self.workers is not None else ():
            statuses.forget(Part.VERIFIER, instance)
        assembler = statuses.newest(Part.ASSEMBLER)
        if self.parts[Part.LEARNER].is_done and assembler and assembler.measures.get("is_attached") == 0.0:
            self.parts[Part.LEARNER].start()  # a new assembler reads nothing until a learner says where it stands

    def _describe_verifiers(self, statuses: PartStatuses) -> str:
        commands = self.workers.commands.values() if self.workers is not None else ()
        return describe_verifiers(commands, statuses.by_part(), [source.name for source in self.settings.sources])

    @property
    def _trouble(self) -> str:
        if self.silent_seconds == 0:
            return ""
        return f"the broker at {self.settings.bus.bootstrap_servers} does not answer"

    def _say_now_and_then(self, words: str) -> None:
        """Say what keeps the run waiting, and say it again only after a while."""
        kind, now = words.partition(" (")[0], time.monotonic()
        if words and (self._said[0] != kind or now - self._said[1] > SAY_SECONDS):
            self._said = (kind, now)
            self.display.say(f"waiting for {words}" if words.endswith(")") else words)


def _stop_together(processes: Sequence[PartProcess], timeout_seconds: float) -> None:
    """Ask processes to end, wait for all of them together, and kill what has not ended by then."""
    deadline = time.monotonic() + timeout_seconds
    for process in processes:
        process.ask_to_stop()
    for process in processes:
        process.stop(max(0.0, deadline - time.monotonic()))


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
        TryAgainError: the run's own broker ended, and its log with it.
    """
    # A broker that goes is told in one line; the client would tell it again and again into the picture.
    logging.getLogger("kafka").setLevel(logging.CRITICAL)
    logging.getLogger("tristream").setLevel(logging.CRITICAL)
    display = ProgressDisplay()
    run = LocalRun(with_free_id(settings) if again else settings, display)
    if not run.run():
        display.say("stopped; the same command resumes the run")
        return INTERRUPTED_EXIT_CODE
    display.say("writing the report")
    summary, account = write_results(
        run.settings, run.seconds, on_wait=lambda reason: display.say(f"waiting for {reason}")
    )
    display.print(before_and_after(summary["sources"]))
    if (components := components_before_and_after(summary["sources"])) is not None:
        display.print(components)
    for line in (*account_lines(account), *change_lines(summary), *lost_lines(summary)):
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


def with_own_broker(settings: RunFile, broker: Broker) -> RunFile:
    """Let the parts use a broker of the run's own as it is best used, and keep the log in the run's folder too."""
    bus = settings.bus
    update = {"bootstrap_servers": broker.bootstrap_servers, "durable": broker.durable}
    if not broker.durable:
        update["linger_seconds"] = EMBEDDED_LINGER_SECONDS if bus.linger_seconds is None else bus.linger_seconds
        update["num_partitions"] = bus.num_partitions or EMBEDDED_NUM_PARTITIONS
    monitoring = settings.monitoring.model_copy(update={"archive": True})
    return settings.model_copy(update={"bus": bus.model_copy(update=update), "monitoring": monitoring})


def with_local_addresses(settings: RunFile) -> RunFile:
    """Give the assembler a free port of this machine, unless the run file names one, and each part one for metrics."""
    if settings.metrics.port:
        metrics = settings.metrics.model_copy(update={"port": 0})
        settings = settings.model_copy(update={"metrics": metrics})
    default = type(settings.assembly).model_fields["address"].default
    if settings.assembly.address != default:
        return settings
    assembly = settings.assembly.model_copy(update={"address": f"127.0.0.1:{free_port()}"})
    return settings.model_copy(update={"assembly": assembly})

"""The dispatcher: admits prompts and evaluation rounds, and holds no state that is not on the log.

    prompts, outcomes, policy, parts --> facts --> Admission         --> training prompts
                                               --> EvaluationRounds  --> evaluation prompts
                           commands --> plan   --> SourcePauses      --> commands

On start it takes the newest policy version, whose ledger says what is settled and where the rest begins on the log,
and reads from there; afterwards each fact is handled as it arrives. Facts are sets, so repeats change nothing. A
prompt counts as dispatched when it is published; publishing is flushed before the next facts are read, and a prompt
that was lost with the process is missing on the log and so is dispatched by the next process. Of a run there is one
dispatcher: what another one publishes after this one has taken over is void.
"""

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from tristream.config.parts import DispatcherSettings
from tristream.dispatcher.prompt_making import PromptMaker
from tristream.dispatcher.prompts_on_log import PromptsOnLog
from tristream.dispatcher.run_commands import RunCommands
from tristream.dispatcher.run_facts import RunFacts
from tristream.dispatcher.verifier_watch import PATIENCE_SECONDS
from tristream.runtime.bus.protocol import Bus, EventTooLargeError, Reader, Record
from tristream.runtime.errors import StoppedError, UserError
from tristream.runtime.lease import Lease
from tristream.runtime.retry import retry
from tristream.runtime.status import PartReporter
from tristream.runtime.store import StoreUnavailableError
from tristream.wire.events import (
    Command,
    DeadLetter,
    Outcome,
    Part,
    PartState,
    PartStatus,
    PolicyVersion,
    Prompt,
)
from tristream.wire.topics import COMMANDS, DEAD_LETTERS, OUTCOMES, PARTS, POLICY, PROMPTS, Topic

LOG = logging.getLogger("tristream.dispatcher")

POLL_SECONDS = 0.1
MEASURE_SECONDS = 0.5
"""Shortest time between two looks at the numbers of the status."""
COMMANDS_FILE = "commands.txt"
"""File in the run's folder with the commands that the broker may lose."""

Offsets = Mapping[tuple[str, int], int]
Take = Callable[[Record[Any]], None]


class Dispatcher:
    """Dispatches the prompts of one run until the last version is durable and evaluated.

    Args:
        settings: the run.
        bus: the run's topics.
        maker: makes the prompts.
        reporter: tells what the dispatcher does.
        clock: seconds by which paused sources are tried again.
        patience_seconds: a source waits once nobody has served one of its verifiers for so long, by the log's time.
    """

    def __init__(
        self,
        settings: DispatcherSettings,
        bus: Bus,
        maker: PromptMaker,
        reporter: PartReporter,
        clock: Callable[[], float] = time.monotonic,
        patience_seconds: float = PATIENCE_SECONDS,
    ) -> None:
        self._bus = bus
        self._maker = maker
        self._reporter = reporter
        self._facts = RunFacts(settings, maker.num_eval_prompts, maker.plan, clock, patience_seconds)
        self._commands = RunCommands(
            bus,
            maker.mixture,
            maker.plan,
            self._facts,
            total_steps=settings.run.steps,
            file=None if settings.bus.durable else Path(settings.run.folder.path) / COMMANDS_FILE,
        )
        self._measured_seconds = -MEASURE_SECONDS
        self._lease: Lease | None = None

    def run(self, stop: threading.Event) -> None:
        """Dispatch until the run is complete or a stop is asked for; the topics exist.

        Raises:
            UserError: another dispatcher of the run is at work, or the log belongs to another run file.
            BusError: the broker failed for good.
        """
        try:
            lease = Lease.claim(self._bus, self._reporter, [PROMPTS, COMMANDS], stop=stop)
        except StoppedError:
            return
        try:
            self._run(lease, stop)
        except StoppedError:
            LOG.info("told to stop while it waited for the broker")
        finally:
            lease.close()

    def _run(self, lease: Lease, stop: threading.Event) -> None:
        self._lease = lease
        reader = self._rebuild(stop)
        try:
            while not stop.is_set():
                lease.check()
                self._facts.find_waiting_sources(lease.log_seconds)
                self._commands.give()
                self._dispatch(stop)
                if self._facts.is_finished:
                    self._reporter.report(PartState.READY, measures=self._facts.measures())
                    break
                self._report()
                for record in reader.poll(POLL_SECONDS):
                    self._observe(record)
        finally:
            reader.close()

    # What is on the log --------------------------------------------------------------------------

    def _rebuild(self, stop: threading.Event) -> Reader:
        """Learn what is on the log, and return a reader that goes on from there."""
        policy_ends = self._read([POLICY], {}, self._observe, stop)
        offsets = self._facts.durable.position.offsets_on(self._bus.log_id())
        command_ends = self._read([COMMANDS], {}, self._observe, stop)
        self._commands.restore()
        on_log = PromptsOnLog(self._maker.run_fingerprint, self._facts.admission.is_settled)

        def take_prompt(record: Record[Any]) -> None:
            on_log.check(record.event)
            self._facts.observe_prompt(record.event)

        self._read([PROMPTS], offsets, take_prompt, stop)
        self._tell_bad_rows()
        # Who served before may be gone; whoever is at work says so again.
        part_ends = self._read([PARTS], {}, lambda _record: None, stop)
        ends = {**offsets, **policy_ends, **command_ends, **part_ends}
        facts = self._bus.reader([POLICY, COMMANDS, OUTCOMES, PARTS], offsets=ends)
        try:
            self._take_all(facts, self._observe, stop)
        except BaseException:
            facts.close()
            raise
        return facts

    def _read(self, topics: Sequence[Topic[Any]], offsets: Offsets, take: Take, stop: threading.Event) -> Offsets:
        """Read topics to their ends, record by record; returns where these are."""
        reader = self._bus.reader(topics, offsets=offsets)
        try:
            self._take_all(reader, take, stop)
            return dict(reader.positions())
        finally:
            reader.close()

    def _take_all(self, reader: Reader, take: Take, stop: threading.Event) -> None:
        for num_before, record in enumerate(reader.read_to_end()):
            take(record)
            if num_before % 1000 == 0:
                self._reporter.report(PartState.STARTING, f"what is on the log ({record.topic})")
                if stop.is_set():
                    raise StoppedError

    def _observe(self, record: Record[Any]) -> None:
        match record.event:
            case PolicyVersion() as policy:
                self._facts.observe_policy(policy)
            case Outcome() as outcome:
                self._facts.observe_outcome(outcome)
            case Command():
                self._commands.observe(record)
            case PartStatus() as status if self._lease is not None:
                self._facts.observe_status(status, self._lease.log_seconds)

    # What is dispatched --------------------------------------------------------------------------

    def _dispatch(self, stop: threading.Event) -> None:
        rounds, admission, maker = self._facts.rounds, self._facts.admission, self._maker
        for work in rounds.take_work():
            self._publish(self._make(partial(maker.evaluation_prompt, work.number, work.weights, work.attempt), stop))
        while not self._are_all_paused() and (admitted := admission.admit()) is not None:
            prompt = self._make(partial(maker.training_prompt, admitted.number, admitted.progress), stop)
            self._facts.observe_prompt(prompt)
            self._publish(prompt)
        self._bus.flush()
        rounds.forget_old()

    def _make(self, make: Callable[[], Prompt], stop: threading.Event) -> Prompt:
        """A prompt; a store that does not take its images is waited for."""
        return retry(
            make,
            errors=(StoreUnavailableError,),
            say=lambda problem: self._reporter.report(PartState.READY, f"the store: {problem}"),
            stop=stop,
        )

    def _are_all_paused(self) -> bool:
        """Whether a prompt could be dispatched if any source were not paused."""
        number = self._facts.admission.next_number()
        return number is not None and not self._maker.mixture.has_source(number)

    def _publish(self, prompt: Prompt) -> None:
        try:
            self._bus.publish(PROMPTS, prompt)
        except EventTooLargeError as error:
            raise UserError(
                f"its prompt is too large: {error}",
                where=f"source {prompt.group.source}, sample {prompt.group.sample_id}",
                remedy="shorten its text, or lower rollout.inline_image_bytes",
            ) from None

    def _tell_bad_rows(self) -> None:
        """Name the rows that are left out; told again after a restart, under the same place."""
        num_files = Counter(file.path.name for file in self._maker.files)
        for file in self._maker.files:
            for row in file.bad_rows:
                letter = DeadLetter(
                    run=self._bus.run,
                    topic=file.path.name if num_files[file.path.name] == 1 else str(file.path),
                    partition=0,
                    offset=row.row_number,
                    key=file.source.encode(),
                    value=b"",
                    headers={},
                    error=row.reason,
                    part=Part.DISPATCHER,
                    created_ns=time.time_ns(),
                )
                self._bus.publish(DEAD_LETTERS, letter)
                LOG.warning("%s row %d is left out: %s", file.path, row.row_number, row.reason)

    def _report(self) -> None:
        measures = None
        if time.monotonic() - self._measured_seconds >= MEASURE_SECONDS:
            self._measured_seconds = time.monotonic()
            measures = self._facts.measures()
        waiting_for = self._facts.waiting_for(are_all_paused=self._are_all_paused())
        self._reporter.report(PartState.READY, waiting_for, measures=measures)

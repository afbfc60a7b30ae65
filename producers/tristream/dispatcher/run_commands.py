"""The commands of a run: said on the log before they hold, so that prompts stay a function of it.

What the dispatcher commands is written under its epoch and says from which prompt on it holds. A command of somebody
else carries no epoch: it is a request, which the dispatcher answers with a command of its own, or with why it does
not follow it. A broker that does not keep its log over a restart loses the commands; then they are kept in the run's
folder as well, and told again.
"""

import base64
import logging
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

from tristream.dispatcher.mixing import Mixture
from tristream.dispatcher.run_facts import RunFacts
from tristream.dispatcher.verifier_plan import KINDS_OF_VERIFIERS, VerifierPlan
from tristream.runtime.bus.protocol import Bus, Record
from tristream.runtime.durable_files import write_durably
from tristream.runtime.errors import UserError
from tristream.wire.events import Command, CommandKind
from tristream.wire.identities import answer_id, answered_id
from tristream.wire.topics import COMMANDS, EPOCH_HEADER

LOG = logging.getLogger("tristream.dispatcher")

KINDS_OF_SOURCES = (CommandKind.PAUSE_SOURCE, CommandKind.RESUME_SOURCE)
BY_A_PERSON = "a person's command"


class RunCommands:
    """Reads, answers and gives the commands of one run.

    Args:
        bus: its topic ``COMMANDS`` is taken over.
        mixture: is told from which prompt on a source takes part or not.
        plan: is told which verifiers judge from which prompt on.
        facts: say from where on a command can hold, and are told what is paused.
        total_steps: steps of the run as it was started.
        file: where the commands are kept too, for brokers that lose them; None if the broker keeps them.
    """

    def __init__(
        self,
        bus: Bus,
        mixture: Mixture,
        plan: VerifierPlan,
        facts: RunFacts,
        *,
        total_steps: int,
        file: Path | None,
    ) -> None:
        self._bus = bus
        self._mixture = mixture
        self._plan = plan
        self._facts = facts
        self._total_steps = total_steps
        self._file = file
        self._seen: set[str] = set()
        self._newest_number = self._newest_version = 0
        self._requests: dict[str, Command] = {}
        """Not yet answered, by id."""

    def observe(self, record: Record[Command]) -> None:
        """Take in a command from the log.

        Raises:
            UserError: the run was extended beyond the steps that it was started with.
        """
        command = record.event
        if command.run != self._bus.run:
            LOG.warning("the command %s is left out: it is of run %s", command.id, command.run)
            return
        if command.kind is CommandKind.EXTEND and command.total_steps > self._total_steps:
            raise UserError(
                f"the run was extended to {command.total_steps} steps and is started with {self._total_steps}",
                where=f"run {command.run}",
                remedy=f"start it with --steps {command.total_steps}",
            )
        if command.kind not in (*KINDS_OF_SOURCES, *KINDS_OF_VERIFIERS) or command.id in self._seen:
            return
        self._seen.add(command.id)
        if EPOCH_HEADER not in record.headers:
            self._requests[command.id] = command
            return
        self._requests.pop(answered_id(command.id), None)
        self._hold(command)

    def restore(self) -> None:
        """Tell the log the commands that it has lost."""
        for command in self._read_file():
            if command.id not in self._seen:
                LOG.info("the log has lost the command %s, which is told again", command.id)
                self._tell(command)

    def give(self) -> None:
        """Answer the requests, and command what is due."""
        requests = list(self._requests.values())
        self._requests.clear()
        for request in requests:
            refusal = self._find_refusal(request)
            self._command(replace(request, refusal=refusal), partial(answer_id, request.id))
        for change in self._facts.pauses.due():
            self._command(
                Command(
                    run=self._bus.run,
                    id="",
                    kind=change.kind,
                    sources=(change.source,),
                    reason=change.reason,
                    created_ns=0,
                ),
                lambda number, prefix=change.id_prefix: f"{prefix}{number}",  # type: ignore[misc]
            )

    def _find_refusal(self, request: Command) -> str:
        if request.kind in KINDS_OF_VERIFIERS:
            return self._plan.find_refusal(request)
        unknown = [source for source in request.sources if source not in self._mixture.names]
        return f"it has no source '{unknown[0]}'; its sources are {', '.join(self._mixture.names)}" if unknown else ""

    def _command(self, command: Command, make_id: Callable[[int], str]) -> None:
        """Command something from the first prompt on that was not dispatched; its id has that number."""
        number = max(self._facts.admission.first_never_dispatched, self._newest_number)
        command = replace(
            command,
            id=make_id(number),
            from_number=0 if command.refusal else number,
            from_version=0 if command.refusal else max(self._facts.first_open_version, self._newest_version),
            reason=command.reason or BY_A_PERSON,
            created_ns=time.time_ns(),
        )
        what = ", ".join((*command.sources, *filter(None, [command.verifier]))) or "all sources"
        if command.refusal:
            LOG.warning("%s %s is refused: %s", command.kind, what, command.refusal)
        else:
            LOG.info("%s %s from prompt %d on: %s", command.kind, what, number, command.reason)
            self._keep(command)
        self._tell(command)

    def _tell(self, command: Command) -> None:
        self._bus.publish(COMMANDS, command)
        self._bus.flush()
        self._seen.add(command.id)
        self._hold(command)

    def _hold(self, command: Command) -> None:
        if command.refusal:
            return
        if command.from_number < self._newest_number:
            LOG.warning("the command %s is older than one before it, and is left out", command.id)
            return
        self._newest_number = command.from_number
        self._newest_version = max(self._newest_version, command.from_version)
        if command.kind in KINDS_OF_VERIFIERS:
            self._plan.observe(command)
            return
        sources = command.sources or self._mixture.names
        if command.kind is CommandKind.PAUSE_SOURCE:
            self._mixture.pause(sources, command.from_number)
        else:
            self._mixture.resume(sources, command.from_number)
        self._facts.pauses.observe_command(command)

    def _read_file(self) -> list[Command]:
        if self._file is None or not self._file.exists():
            return []
        lines = self._file.read_text(encoding="ascii").splitlines()
        return [COMMANDS.codec.decode(base64.b64decode(line)) for line in lines]

    def _keep(self, command: Command) -> None:
        if self._file is None:
            return
        kept = (*self._read_file(), command)
        lines = [base64.b64encode(COMMANDS.codec.encode(each)).decode() + "\n" for each in kept]
        try:
            write_durably(self._file, lambda path: path.write_text("".join(lines), encoding="ascii"))
        except OSError as error:
            # The run goes on; only a broker that is lost later would make other prompts of its numbers.
            LOG.warning("the command %s cannot be kept in %s: %s", command.id, self._file, error)

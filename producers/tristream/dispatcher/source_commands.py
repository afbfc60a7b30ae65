"""The commands that pause and resume sources: said on the log before they hold, so that prompts stay a function of it.

What the dispatcher commands is written under its epoch and says from which prompt on it holds. A command of somebody
else carries no epoch: it is a request, which the dispatcher answers with a command of its own. A broker that does
not keep its log over a restart loses the commands; then they are kept in the run's folder as well, and told again.
"""

import base64
import logging
import time
from collections.abc import Callable
from pathlib import Path

from tristream.dispatcher.mixing import Mixture
from tristream.dispatcher.source_pauses import AUTOMATIC, SourcePauses
from tristream.runtime.bus.protocol import Bus, Record
from tristream.runtime.durable_files import write_durably
from tristream.runtime.errors import UserError
from tristream.wire.events import Command, CommandKind
from tristream.wire.topics import COMMANDS, EPOCH_HEADER

LOG = logging.getLogger("tristream.dispatcher")

KINDS = (CommandKind.PAUSE_SOURCE, CommandKind.RESUME_SOURCE)
ANSWER = "/from/"
"""Stands in the id of an answer between the request's id and the prompt number."""


class SourceCommands:
    """Reads, answers and gives the commands of one run.

    Args:
        bus: its topic ``COMMANDS`` is taken over.
        mixture: is told from which prompt on a source takes part or not.
        pauses: is told what is paused.
        total_steps: steps of the run as it was started.
        file: where the commands are kept too, for brokers that lose them; None if the broker keeps them.
    """

    def __init__(
        self, bus: Bus, mixture: Mixture, pauses: SourcePauses, *, total_steps: int, file: Path | None
    ) -> None:
        self._bus = bus
        self._mixture = mixture
        self._pauses = pauses
        self._total_steps = total_steps
        self._file = file
        self._seen: set[str] = set()
        self._newest_number = 0
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
        if command.kind not in KINDS or command.id in self._seen:
            return
        self._seen.add(command.id)
        if EPOCH_HEADER not in record.headers:
            self._requests[command.id] = command
            return
        self._requests.pop(command.id.partition(ANSWER)[0], None)
        self._hold(command)

    def restore(self) -> None:
        """Tell the log the commands that it has lost."""
        for command in self._read_file():
            if command.id not in self._seen:
                LOG.info("the log has lost the command %s, which is told again", command.id)
                self._tell(command)

    def give(self, first_number: Callable[[], int]) -> None:
        """Answer the requests, and command what is due.

        Args:
            first_number: the smallest number from which on no prompt was dispatched.
        """
        answers = [
            (f"{request.id}{ANSWER}", request.kind, request.sources, request.reason or "a person's command")
            for request in self._requests.values()
        ]
        automatic = [
            (f"{AUTOMATIC}/{c.trial}/{c.kind}/{c.source}/", c.kind, (c.source,), c.reason) for c in self._pauses.due()
        ]
        self._requests.clear()
        for prefix, kind, sources, reason in (*answers, *automatic):
            number = max(first_number(), self._newest_number)
            command = Command(
                run=self._bus.run,
                id=f"{prefix}{number}",
                kind=kind,
                sources=sources,
                from_number=number,
                reason=reason,
                created_ns=time.time_ns(),
            )
            LOG.info("%s %s from prompt %d on: %s", kind, ", ".join(sources), number, reason)
            self._keep(command)
            self._tell(command)

    def _tell(self, command: Command) -> None:
        self._bus.publish(COMMANDS, command)
        self._bus.flush()
        self._seen.add(command.id)
        self._hold(command)

    def _hold(self, command: Command) -> None:
        if command.from_number < self._newest_number:
            LOG.warning("the command %s is older than one before it, and is left out", command.id)
            return
        self._newest_number = command.from_number
        sources = command.sources or self._mixture.names
        if command.kind is CommandKind.PAUSE_SOURCE:
            self._mixture.pause(sources, command.from_number)
        else:
            self._mixture.resume(sources, command.from_number)
        self._pauses.observe_command(command)

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

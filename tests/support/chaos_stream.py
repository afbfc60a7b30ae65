"""A run whose engine and learner compute nothing, its processes one by one: for faults that ``up`` would hide.

Every process is started again when it dies, as a cluster does it; a process that ends with exit code 2 is not. Each
assembler listens on a port of its own behind one address, so that one that is frozen can have a successor.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

import pytest

from brokers import started_broker
from fork_server import ForkedProcess, ForkServer
from switchboard import Switchboard
from tristream.config.load import load_run_file
from tristream.config.run_file import RunFile
from tristream.local.broker import Broker, free_port
from tristream.runtime.hooks import VARIABLE
from tristream.wire.events import Part

ROOT = Path(__file__).parents[2]
CLI = ("-m", "tristream.cli")
COMMANDS: Mapping[Part, tuple[str, ...]] = {
    Part.DISPATCHER: (*CLI, "dispatch"),
    Part.PRODUCER: ("-m", "bench.null_stream.producer", "--equal-share", "0.3"),
    Part.VERIFIER: (*CLI, "verify"),
    Part.ASSEMBLER: (*CLI, "assemble"),
    Part.LEARNER: ("-m", "bench.null_stream.learner"),
    Part.MONITOR: (*CLI, "monitor"),
}
FINISHING = (Part.DISPATCHER, Part.LEARNER)
only_in_full = pytest.mark.skipif("CHAOS_SEEDS" not in os.environ, reason="takes minutes; `make chaos` runs it")
"""Marks what costs more than it adds each time that all tests run."""
USER_ERROR = 2
PACE_FILE = "pace"
KEYS: Mapping[str, object] = {
    "rollout.groups_per_step": 8,
    "rollout.group_size": 2,
    "rollout.max_tokens": 8,
    "rollout.max_staleness": 2,
    "rollout.pause_source_after": 0,
    "evaluation.every": 20,
    "learner.checkpoint_every": 5,
    "assembly.generation_timeout_seconds": 20,
    "assembly.scoring_timeout_seconds": 20,
}
RUN_FILE = """
[run]
id = "chaos"
steps = {steps}
output = "runs"

[model]
path = "{model}"

[[sources]]
name = "sevens"
train = "train.parquet"
eval = "eval.parquet"
"""


@dataclass(slots=True)
class Member:
    """One process of a part, and what is needed to start it again."""

    part: Part
    name: str
    command: list[str]
    log: Path
    port: int = 0
    """Where it listens, for an assembler."""
    process: ForkedProcess | None = None
    exit_codes: list[int] = field(default_factory=list)
    hooks: list[str] = field(default_factory=list)
    """Points at which its next lives end, one a life."""
    hook: str = ""
    """The point at which this life ends."""
    is_wanted: bool = True
    """Whether it is started again when it dies."""

    def start(self, server: ForkServer) -> None:
        """Begin a life."""
        environment = dict(os.environ)
        environment.pop(VARIABLE, None)
        self.hook = self.hooks.pop(0) if self.hooks else ""
        if self.hook:
            environment[VARIABLE] = self.hook
        self.process = server.start(self.command, environment, self.log)

    @property
    def is_alive(self) -> bool:
        """Whether its process runs, or is frozen."""
        return self.process is not None and self.process.poll() is None

    def signal(self, number: signal.Signals) -> None:
        """Send a signal, if it lives."""
        if self.process is not None:
            self.process.send_signal(number)


class ChaosStream:
    """One run; use ``started_chaos``."""

    def __init__(
        self, folder: Path, broker: Broker, server: ForkServer, switchboard: Switchboard, settings: RunFile
    ) -> None:
        self.broker = broker
        self.settings = settings
        self.members: dict[str, Member] = {}
        self._folder = folder
        self._server = server
        self._switchboard = switchboard
        self.journal: list[str] = []
        """What was done to the run and what became of its processes."""
        self._started = time.monotonic()

    def note(self, text: str) -> None:
        """Write a line into the journal."""
        self.journal.append(f"{time.monotonic() - self._started:7.1f} s  {text}")

    def add(self, part: Part, name: str = "", *, hooks: tuple[str, ...] = (), is_wanted: bool = True) -> Member:
        """Start a process of a part; an assembler gets the connections from now on."""
        name = name or part
        command = [*COMMANDS[part], "--run", str(self._folder / "run.json")]
        port = free_port() if part is Part.ASSEMBLER else 0
        if port:
            command += ["--set", f"assembly.address=127.0.0.1:{port}"]
            self._switchboard.connect_to(port)
        member = Member(part, name, command, self._folder / f"{name}.log", port, hooks=list(hooks))
        member.is_wanted = is_wanted
        if part is Part.LEARNER:
            member.command += ["--pace-file", str(self._folder / PACE_FILE)]
        self.members[name] = member
        member.start(self._server)
        return member

    def pace(self, step_seconds: float) -> None:
        """How long each step of the learner shall take from now on."""
        temporary = self._folder / f"{PACE_FILE}.tmp"
        temporary.write_text(str(step_seconds), encoding="utf-8")
        temporary.replace(self._folder / PACE_FILE)

    def watch(self) -> None:
        """Start again what died; call it again and again.

        Raises:
            AssertionError: a process that is wanted refused its input.
        """
        for member in self.members.values():
            if member.process is None or member.is_alive:
                continue
            code = member.process.returncode
            assert code is not None, "it has ended"
            member.process = None
            member.exit_codes.append(code)
            self.note(f"{member.name} ended with {code}{f' at {member.hook}' if member.hook else ''}")
            if code == 0 and member.part in FINISHING:
                continue
            if member.is_wanted:
                assert code != USER_ERROR, f"{member.name} refused its input:\n{self.last_words(member.name)}"
                member.start(self._server)

    def wait_until(self, condition: Callable[[], bool], timeout_seconds: float = 300.0, what: str = "") -> None:
        """Watch until something is so."""
        deadline = time.monotonic() + timeout_seconds
        while not condition():
            self.watch()
            if time.monotonic() > deadline:
                raise AssertionError(f"{what or 'it'} did not happen in {timeout_seconds:.0f} s\n{self.report()}")
            time.sleep(0.05)

    def wait(self, seconds: float) -> None:
        """Watch for a while."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.watch()
            time.sleep(0.05)

    def status(self, part: Part) -> dict[str, Any]:
        """What the probe of a part reads; empty while there is nothing."""
        try:
            text = (self.settings.run.folder.status / f"{part}.json").read_text(encoding="utf-8")
            status: dict[str, Any] = json.loads(text)
        except (FileNotFoundError, json.JSONDecodeError):
            return {}
        return status

    @property
    def version(self) -> int:
        """The newest policy version, as the learner says."""
        return int(self.status(Part.LEARNER).get("measures", {}).get("version", 0))

    def finish(self, timeout_seconds: float = 600.0) -> None:
        """Wait until learner and dispatcher have done their work, then stop all others in order."""
        self.pace(0.0)
        self.wait_until(lambda: self.is_done, timeout_seconds, "the end of the run")
        for member in self.members.values():
            member.is_wanted = False
        for part in (Part.PRODUCER, Part.VERIFIER, Part.ASSEMBLER, Part.MONITOR):
            self._stop([member for member in self.members.values() if member.part is part])

    @property
    def num_deaths(self) -> int:
        """How many processes ended that were not to."""
        return sum(code != 0 for member in self.members.values() for code in member.exit_codes)

    @property
    def is_done(self) -> bool:
        """Whether learner and dispatcher have done their work."""
        done = {member.part for member in self.members.values() if member.exit_codes[-1:] == [0]}
        return done >= set(FINISHING)

    def _stop(self, members: list[Member]) -> None:
        for member in members:
            member.signal(signal.SIGTERM)
        for member in members:
            if member.process is not None:
                try:
                    code = member.process.wait(30)
                except TimeoutError:
                    raise AssertionError(f"{member.name} does not end\n{self.report()}") from None
                self.note(f"{member.name} is stopped")
                assert code == 0, f"{member.name} ended with {code}\n{self.last_words(member.name)}"

    def audit(self, *overrides: str) -> "subprocess.CompletedProcess[str]":
        """Audit the run from its log, or with other keys."""
        command = [sys.executable, *CLI, "audit", "--run", str(self._folder / "run.json")]
        command += [word for override in overrides for word in ("--set", override)]
        return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False, timeout=300)

    def must_balance(self) -> None:
        """Audit the run that has ended, on all of its log that is left, and show what happened if it does not balance.

        That is the log on the broker, unless it is in memory and was compacted, and the archive of the monitor.
        """
        sources: dict[str, tuple[str, ...]] = {"log": ()} if self.broker.durable else {}
        if self.settings.monitoring.archive:
            sources["archive"] = ("bus.bootstrap_servers=",)
        assert sources, "there is something to audit"
        for source, overrides in sources.items():
            audit = self.audit(*overrides)
            assert audit.returncode == 0, f"{audit.stdout}\n{audit.stderr}\n{self.report()}"
            assert "not finished" not in audit.stdout, f"{audit.stdout}\n{self.report()}"
            self.note(f"{source}: {audit.stdout.splitlines()[-1]}")

    def connect_to(self, port: int) -> None:
        """Send whoever asks for the assembler to a port from now on."""
        self._switchboard.connect_to(port)

    def kill_broker(self) -> None:
        """End the broker's process at once."""
        self.note("broker killed")
        self.broker.kill()

    def start_broker(self) -> None:
        """Start the broker again."""
        self.broker.start()
        self.note("broker started")

    def restart_broker(self, seconds: float) -> None:
        """Kill the broker, and start it again after a while."""
        self.kill_broker()
        self.wait(seconds)
        self.start_broker()

    def freeze_broker(self) -> None:
        """Stop the broker's process where it is."""
        self.note("broker frozen")
        os.kill(self.broker.pid, signal.SIGSTOP)

    def thaw_broker(self) -> None:
        """Let the broker's process go on."""
        self.note("broker goes on")
        os.kill(self.broker.pid, signal.SIGCONT)

    def last_words(self, name: str, num_lines: int = 12) -> str:
        """The end of a log."""
        lines = (self._folder / f"{name}.log").read_text(errors="replace").splitlines()
        return "\n".join(lines[-num_lines:])

    def report(self) -> str:
        """The journal, and the last words of all."""
        words = [f"--- {name}\n{self.last_words(name)}" for name in self.members]
        return "\n".join([*self.journal, *words])

    def end(self) -> None:
        """Kill what is left."""
        for member in self.members.values():
            if member.process is not None:
                for number in (signal.SIGCONT, signal.SIGKILL):
                    try:
                        os.killpg(member.process.pid, number)
                    except ProcessLookupError:
                        pass
                member.process.wait()


@contextmanager
def started_chaos(
    folder: Path,
    kind: str = "kafka",
    *,
    steps: int,
    with_monitor: bool = False,
    broker_is_up: bool = True,
    step_seconds: float = 0.2,
    **keys: object,
) -> Iterator[ChaosStream]:
    """A run on a broker of its own, ``kafka`` or ``embedded``, with all parts started."""
    from bench.null_stream.rows import write_rows

    write_rows(folder / "train.parquet", 512)
    write_rows(folder / "eval.parquet", 8)
    run_file = folder / "run.toml"
    run_file.write_text(RUN_FILE.format(steps=steps, model=ROOT / "examples/digits/model"), encoding="utf-8")
    with ExitStack() as stack:
        server = stack.enter_context(ForkServer())
        broker = stack.enter_context(started_broker(kind, folder))
        switchboard = stack.enter_context(Switchboard())
        settings = _settings(
            run_file,
            {
                "run.output": folder,
                "bus.bootstrap_servers": broker.bootstrap_servers,
                "bus.durable": str(broker.durable).lower(),
                "assembly.address": switchboard.address,
                "monitoring.archive": str(with_monitor).lower(),
                **KEYS,
                **{name.replace("__", "."): value for name, value in keys.items()},
            },
        )
        (folder / "run.json").write_text(settings.model_dump_json(), encoding="utf-8")
        stream = ChaosStream(folder, broker, server, switchboard, settings)
        stack.callback(stream.end)
        stream.pace(step_seconds)
        if not broker_is_up:
            stream.kill_broker()
        for part in reversed(Part):
            if part is not Part.MONITOR or with_monitor:
                stream.add(part)
        yield stream


def _settings(run_file: Path, keys: Mapping[str, object]) -> RunFile:
    return load_run_file(run_file, [f"{name}={value}" for name, value in keys.items()], environment={})


def print_journal(stream: ChaosStream, out: TextIO = sys.stdout) -> None:
    """Say what happened."""
    out.write("\n".join(["", *stream.journal, ""]))

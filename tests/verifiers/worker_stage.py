"""A broker, a run's topics, and worker processes on demand, for tests."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from builders import PLUG_INS, PLUG_INS_FILE, make_rollout, make_term

from tristream.config.parts import VerifierSettings
from tristream.config.run_file import RunFile
from tristream.runtime.bus.kafka import KafkaBus
from tristream.wire.events import DeadLetter, PartState, PartStatus, Reward, RewardTerm, Rollout
from tristream.wire.topics import DEAD_LETTERS, PARTS, REWARDS, ROLLOUTS

HERE = Path(__file__).parent


class Stage:
    """A broker, the run's topics, and worker processes on demand."""

    def __init__(self, servers: str, folder: Path, run: str) -> None:
        run_file = RunFile.model_validate(
            {
                "run": {"id": run, "steps": 10, "output": str(folder)},
                "model": {"path": str(folder)},
                "sources": [{"name": "shapes", "train": str(folder / "none.parquet")}],
                "bus": {"bootstrap_servers": servers},
                "verification": {"plug_ins": {**PLUG_INS, "deed@8": f"{PLUG_INS_FILE}:deed_8"}},
            }
        )
        self.settings = VerifierSettings.of(run_file)
        self.run = run
        self._folder = folder
        self._workers: list[subprocess.Popen[bytes]] = []
        self.bus = KafkaBus(run, self.settings.bus, "test")
        self.bus.create_topics()
        self._reader = self.bus.reader([REWARDS, DEAD_LETTERS, PARTS])
        self.rewards: dict[str, Reward] = {}
        """The newest reward of each rollout."""
        self.all_rewards: list[Reward] = []
        self.letters: list[DeadLetter] = []
        self.parts: dict[str, PartStatus] = {}

    def start_worker(self, *arguments: str, serves: Sequence[str] = ("deed@7",)) -> "subprocess.Popen[bytes]":
        verification = self.settings.verification.model_copy(update={"verifiers": tuple(serves)})
        settings_path = self._folder / f"settings-{len(self._workers)}.json"
        settings_path.write_text(self.settings.model_copy(update={"verification": verification}).model_dump_json())
        command = [sys.executable, str(HERE / "run_worker.py"), str(settings_path), *arguments]
        with (self._folder / "worker.log").open("ab") as log:
            environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
            worker = subprocess.Popen(command, stderr=log, env=environment)
        self._workers.append(worker)
        return worker

    def publish(self, text: str, number: int, *terms: RewardTerm, source: str = "shapes") -> str:
        rollout = make_rollout(text, "x", terms=terms or (make_term(),), number=number, run=self.run, source=source)
        self.bus.publish(ROLLOUTS, rollout)
        return rollout.id

    def publish_raw(self, rollout: Rollout, **headers: bytes) -> None:
        """Publish a rollout under these headers and no others."""
        name, value = self.bus.full_name(ROLLOUTS), ROLLOUTS.codec.encode(rollout)
        self.bus._producer.send(name, value=value, key=ROLLOUTS.key(rollout).encode(), headers=list(headers.items()))

    def status(self, worker: "subprocess.Popen[bytes]") -> PartStatus | None:
        """The newest status of this very process."""
        return self.parts.get(f"{socket.gethostname()}-{worker.pid}")

    def is_scored(self, ids: set[str]) -> bool:
        """Whether exactly these rollouts have a reward."""
        return set(self.rewards) == ids

    @property
    def log(self) -> str:
        return (self._folder / "worker.log").read_text()

    def read_until(self, condition: Callable[[], bool], seconds: float = 60.0) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            for record in self._reader.poll(0.1):
                if isinstance(record.event, Reward):
                    self.all_rewards.append(record.event)
                    self.rewards[record.event.id.partition("|")[0]] = record.event
                elif isinstance(record.event, DeadLetter):
                    self.letters.append(record.event)
                else:
                    self.parts[record.event.instance] = record.event
            counts = f"{len(self.rewards)} rewards, {len(self.letters)} letters"
            assert time.monotonic() < deadline, f"{counts}\n{self.log[-3000:]}"

    def is_behind_by_less(self, number: int, ids: set[str]) -> bool:
        """Whether fewer rollouts than that have no reward yet."""
        return len(ids - set(self.rewards)) < number

    def read_until_busy(self, worker: "subprocess.Popen[bytes]") -> None:
        """Read until this very process has scored a part of the backlog."""

        def is_busy() -> bool:
            status = self.status(worker)
            return status is not None and status.measures.get("num_scored", 0) > 60

        self.read_until(is_busy)

    def read_until_state(self, worker: "subprocess.Popen[bytes]", state: PartState) -> None:
        """Read until this very process has said that it is in the state."""

        def is_in_state() -> bool:
            status = self.status(worker)
            return status is not None and status.state is state

        self.read_until(is_in_state)

    def close_bus(self) -> None:
        self._reader.close()
        self.bus.close()

    def close(self) -> None:
        for worker in self._workers:
            worker.kill()
            worker.wait()
        self.close_bus()


def child_processes(pid: int) -> list[int]:
    """Processes below a process, at any depth."""
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in map(int, (task / "children").read_text().split()):
            found += [child, *child_processes(child)]
    return found


def wait_until(condition: Callable[[], bool], *, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)

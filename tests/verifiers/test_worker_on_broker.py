"""The real worker process on a real broker: nothing is lost across kills, stops and bugs."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from builders import make_rollout

from brokers import running_broker
from tristream.config.run_file import RunFile
from tristream.runtime.bus.kafka import KafkaBus
from tristream.runtime.status import read_status
from tristream.wire.events import DeadLetter, Reward, Status, VerifierState
from tristream.wire.topics import DEAD_LETTERS, REWARDS, ROLLOUTS, VERIFIERS

pytestmark = [pytest.mark.integration, pytest.mark.slow]

HERE = Path(__file__).parent


class Stage:
    """A broker, the run's topics, and worker processes on demand."""

    def __init__(self, servers: str, folder: Path, run: str) -> None:
        self.settings = RunFile.model_validate(
            {
                "run": {"id": run, "steps": 10, "output": str(folder)},
                "model": {"path": str(folder)},
                "sources": [{"name": "shapes", "train": str(folder / "none.parquet")}],
                "bus": {"bootstrap_servers": servers},
                "verification": {"deadline_seconds": 2.0},
            }
        )
        self.run = run
        self._settings_path = folder / "settings.json"
        self._settings_path.write_text(self.settings.model_dump_json())
        self._folder = folder
        self._workers: list[subprocess.Popen[bytes]] = []
        self.bus = KafkaBus(self.settings, "test")
        self.bus.create_topics()
        self._reader = self.bus.reader([REWARDS, DEAD_LETTERS, VERIFIERS])
        self.rewards: dict[str, Reward] = {}
        self.num_rewards = 0
        self.letters: list[DeadLetter] = []
        self.states: dict[str, VerifierState] = {}

    def start_worker(self, *arguments: str) -> "subprocess.Popen[bytes]":
        command = [sys.executable, str(HERE / "run_worker.py"), str(self._settings_path), *arguments]
        with (self._folder / "worker.log").open("ab") as log:
            environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
            worker = subprocess.Popen(command, stderr=log, env=environment)
        self._workers.append(worker)
        return worker

    def publish(self, text: str, number: int, verifier: str = "misbehaving") -> str:
        rollout = make_rollout(text, "x", terms=[(verifier, "{}")], number=number, run=self.run)
        self.bus.publish(ROLLOUTS, rollout)
        return rollout.id

    def read_until(self, condition: Callable[[], bool], seconds: float = 60.0) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            for record in self._reader.poll(0.1):
                if isinstance(record.event, Reward):
                    self.num_rewards += 1
                    self.rewards[record.event.id.partition("|")[0]] = record.event
                elif isinstance(record.event, DeadLetter):
                    self.letters.append(record.event)
                else:
                    self.states[record.event.verifier] = record.event
            log = (self._folder / "worker.log").read_text()[-3000:]
            assert time.monotonic() < deadline, f"{len(self.rewards)} rewards, {len(self.letters)} letters\n{log}"

    def read_until_busy(self, worker: "subprocess.Popen[bytes]") -> None:
        """Read until this very process has scored a part of the backlog."""

        def is_busy() -> bool:
            status = read_status(self.settings.status_folder, "verifier") or {}
            return bool(status.get("pid") == worker.pid and status.get("num_scored", 0) > 60)

        self.read_until(is_busy)

    def close(self) -> None:
        for worker in self._workers:
            worker.kill()
            worker.wait()
        self._reader.close()
        self.bus.close()


@pytest.fixture(scope="module", params=["embedded", "kafka"])
def servers(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with running_broker(request.param, tmp_path_factory.mktemp(request.param)) as address:
        yield address


@pytest.fixture
def stage(servers: str, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Stage]:
    name = request.function.__name__.removeprefix("test_").replace("_", "-")[:60]
    stage = Stage(servers, tmp_path, name)
    yield stage
    stage.close()


def test_every_fate_of_a_rollout_reaches_the_log(stage: Stage) -> None:
    stage.start_worker()
    texts = ["x", "hang", "crash", "raise", "unscorable", "wrong"]
    ids = [stage.publish(text, number) for number, text in enumerate(texts)]
    other = stage.publish("x", 50, verifier="somebody-elses")
    stage.bus.publish_barrier(ROLLOUTS, [0, 1, 2, 3], "barrier")
    header = [("verifiers", b"misbehaving")]
    stage.bus._producer.send(stage.bus.full_name(ROLLOUTS), value=b"\xff\xfe", key=b"k", headers=header)
    stage.read_until(lambda: set(ids) <= set(stage.rewards) and bool(stage.letters) and "math" in stage.states)
    statuses = [stage.rewards[rollout_id].status for rollout_id in ids]
    assert statuses == [
        Status.SCORED,
        Status.TIMEOUT,
        Status.ERROR,
        Status.ERROR,
        Status.UNSCORABLE,
        Status.SCORED,
    ]
    assert [stage.rewards[ids[index]].components for index in (0, 1, 5)] == [{"accuracy": 1.0}, {}, {"accuracy": 0.0}]
    assert other not in stage.rewards
    assert stage.letters[0].value == b"\xff\xfe"
    assert "not protobuf" in stage.letters[0].error


def test_kill_in_the_middle_of_a_backlog_loses_nothing(stage: Stage) -> None:
    ids = {stage.publish("sleep 0.01", number) for number in range(600)}
    for _ in range(2):
        worker = stage.start_worker()
        stage.read_until_busy(worker)
        worker.send_signal(signal.SIGKILL)
        worker.wait()
    stage.start_worker()
    stage.read_until(lambda: set(stage.rewards) == ids, seconds=90)


def test_stop_in_the_middle_of_a_backlog_loses_nothing_and_repeats_nothing(stage: Stage) -> None:
    ids = {stage.publish("sleep 0.01", number) for number in range(1200)}
    for _ in range(2):
        worker = stage.start_worker()
        stage.read_until_busy(worker)
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(timeout=30) == 0
        assert (read_status(stage.settings.status_folder, "verifier") or {})["state"] == "done"
    stage.start_worker()
    stage.read_until(lambda: set(stage.rewards) == ids, seconds=90)
    assert stage.num_rewards == len(ids)


def test_a_bug_ends_the_process_with_an_error_and_loses_nothing(stage: Stage) -> None:
    ids = {stage.publish("x", number) for number in range(300)}
    worker = stage.start_worker(f"{stage.run}/150")
    assert worker.wait(timeout=60) not in (0, 2)
    stage.start_worker()
    stage.read_until(lambda: set(stage.rewards) == ids, seconds=60)


def test_a_second_worker_takes_over_from_a_dead_one(stage: Stage) -> None:
    first = stage.start_worker()
    stage.read_until(lambda: bool(stage.states))
    stage.start_worker()
    ids = {stage.publish("sleep 0.005", number) for number in range(400)}
    stage.read_until(lambda: len(stage.rewards) > 100)
    first.send_signal(signal.SIGKILL)
    stage.read_until(lambda: set(stage.rewards) == ids, seconds=90)

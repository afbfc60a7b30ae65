"""The real worker process on a real broker: nothing is lost across kills, stops and bugs."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
from builders import make_rollout, make_term

from brokers import running_broker, started_broker
from tristream.config.parts import VerifierSettings
from tristream.config.run_file import RunFile
from tristream.runtime.bus.kafka import KafkaBus
from tristream.wire.events import (
    DeadLetter,
    Part,
    PartState,
    PartStatus,
    Reward,
    RewardTerm,
    Rollout,
    Status,
    TermMode,
    VerifierLoad,
)
from tristream.wire.topics import DEAD_LETTERS, PARTS, REWARDS, ROLLOUTS

pytestmark = [pytest.mark.integration, pytest.mark.slow]

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
                "verification": {"deadline_seconds": 2.0},
            }
        )
        self.settings = VerifierSettings.of(run_file)
        self.run = run
        self._settings_path = folder / "settings.json"
        self._settings_path.write_text(self.settings.model_dump_json())
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

    def start_worker(self, *arguments: str) -> "subprocess.Popen[bytes]":
        command = [sys.executable, str(HERE / "run_worker.py"), str(self._settings_path), *arguments]
        with (self._folder / "worker.log").open("ab") as log:
            environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
            worker = subprocess.Popen(command, stderr=log, env=environment)
        self._workers.append(worker)
        return worker

    def publish(self, text: str, number: int, *terms: RewardTerm) -> str:
        rollout = make_rollout(text, "x", terms=terms or (make_term(),), number=number, run=self.run)
        self.bus.publish(ROLLOUTS, rollout)
        return rollout.id

    def publish_raw(self, rollout: Rollout, **headers: bytes) -> None:
        """Publish a rollout under these headers and no others."""
        name, value = self.bus.full_name(ROLLOUTS), ROLLOUTS.codec.encode(rollout)
        self.bus._producer.send(name, value=value, key=ROLLOUTS.key(rollout).encode(), headers=list(headers.items()))

    def status(self, worker: "subprocess.Popen[bytes]") -> PartStatus | None:
        """The newest status of this very process."""
        return self.parts.get(f"{socket.gethostname()}-{worker.pid}")

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
    worker = stage.start_worker()
    texts = ["x", "hang", "crash", "raise", "unscorable", "wrong"]
    ids = [stage.publish(text, number) for number, text in enumerate(texts)]
    other = stage.publish("x", 50, make_term("somebody-elses", "1"))
    stage.bus.publish_barriers(ROLLOUTS, [0, 1, 2, 3], "barrier")
    header = [("contract", b"2"), ("verifiers", b"misbehaving@7")]
    stage.bus._producer.send(stage.bus.full_name(ROLLOUTS), value=b"\xff\xfe", key=b"k", headers=header)
    stage.read_until(lambda: set(ids) <= set(stage.rewards) and bool(stage.letters))
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
    counts = {"num_scored": 2, "num_unscorable": 1, "num_timeout": 1, "num_error": 2, "num_dead_letters": 1}

    def is_told() -> bool:
        status = stage.status(worker)
        return status is not None and status.measures == {**counts, "num_restarts": 2}

    stage.read_until(is_told)
    status = stage.status(worker)
    assert status is not None
    assert (status.part, status.state, status.waiting_for) == (Part.VERIFIER, PartState.READY, "rollouts")
    assert VerifierLoad(verifier="misbehaving", version="7", num_scored=2) in status.verifiers
    assert VerifierLoad(verifier="math", version="1", num_scored=0) in status.verifiers


def test_two_versions_and_a_shadow_are_scored_each_by_its_own_worker(stage: Stage) -> None:
    for version in ("7", "8"):
        stage.start_worker("--version", version)
    terms = [make_term(term_id="live"), make_term(version="8", term_id="trial", mode=TermMode.SHADOW)]
    ids = {stage.publish("x", number, *terms) for number in range(40)}
    wanted = {f"{rollout_id}|{term.id}|{term.version}" for rollout_id in ids for term in terms}
    stage.read_until(lambda: {reward.id for reward in stage.all_rewards} == wanted)
    modes = {(reward.term_id, reward.version, reward.mode) for reward in stage.all_rewards}
    assert modes == {("live", "7", TermMode.ACTIVE), ("trial", "8", TermMode.SHADOW)}
    assert len(stage.all_rewards) == 80


def test_a_record_of_another_contract_is_a_dead_letter(stage: Stage) -> None:
    ids = {stage.publish("x", number) for number in range(20)}  # every partition is begun under ours
    stage.publish_raw(make_rollout("x", number=99, run=stage.run), verifiers=b"misbehaving")
    stage.start_worker()
    stage.read_until(lambda: set(stage.rewards) == ids and bool(stage.letters))
    assert "contract 1" in stage.letters[0].error


def test_a_log_begun_under_another_contract_ends_the_worker_as_a_users_error(stage: Stage) -> None:
    stage.publish_raw(make_rollout("x", run=stage.run), verifiers=b"misbehaving")
    worker = stage.start_worker()
    assert worker.wait(timeout=60) == 2
    assert f"run {stage.run}, topic rollouts: its log was written under contract 1" in stage.log


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
        stage.read_until_state(worker, PartState.DONE)
    stage.start_worker()
    stage.read_until(lambda: set(stage.rewards) == ids, seconds=90)
    assert len(stage.all_rewards) == len(ids)


def test_a_bug_ends_the_process_with_an_error_and_loses_nothing(stage: Stage) -> None:
    ids = {stage.publish("x", number) for number in range(300)}
    worker = stage.start_worker("--bug-at", f"{stage.run}/150")
    assert worker.wait(timeout=60) not in (0, 2)
    stage.start_worker()
    stage.read_until(lambda: set(stage.rewards) == ids, seconds=60)


def test_workers_that_come_and_go_lose_nothing(stage: Stage) -> None:
    lasting = stage.start_worker()
    stage.read_until_state(lasting, PartState.READY)
    ids: set[str] = set()
    for round_number, end in enumerate((signal.SIGTERM, signal.SIGKILL, signal.SIGTERM)):
        guest = stage.start_worker()
        deadline = time.monotonic() + 5
        while time.monotonic() < deadline:
            ids |= {stage.publish("sleep 0.002", len(ids) + number) for number in range(20)}
            stage.read_until(partial(stage.is_behind_by_less, 200, ids))
            time.sleep(0.1)
        guest.send_signal(end)
        guest.wait(timeout=30)
        assert lasting.poll() is None, f"it ended in round {round_number}"
    stage.read_until(lambda: set(stage.rewards) == ids, seconds=60)
    assert {reward.status for reward in stage.all_rewards} == {Status.SCORED}


def test_a_second_worker_takes_over_from_a_dead_one(stage: Stage) -> None:
    first = stage.start_worker()
    stage.read_until_state(first, PartState.READY)
    stage.start_worker()
    ids = {stage.publish("sleep 0.005", number) for number in range(400)}
    stage.read_until(lambda: len(stage.rewards) > 100)
    first.send_signal(signal.SIGKILL)
    stage.read_until(lambda: set(stage.rewards) == ids, seconds=90)


def test_a_broker_that_is_away_is_named_and_waited_for(tmp_path: Path) -> None:
    with started_broker("kafka", tmp_path) as broker:
        stage = Stage(broker.bootstrap_servers, tmp_path, "outage")
        try:
            worker = stage.start_worker()
            ids = {stage.publish("x", number) for number in range(100)}
            stage.read_until(lambda: set(stage.rewards) == ids)
            ids |= {stage.publish("sleep 0.02", 100 + number) for number in range(200)}
            stage.bus.flush()
            broker.kill()
            status = stage.settings.run.folder.status / "verifier.json"
            wait_until(lambda: broker.bootstrap_servers in json.loads(status.read_text())["waiting_for"], seconds=15)
            time.sleep(15)
            assert worker.poll() is None
            broker.start()
            stage.read_until(lambda: set(stage.rewards) == ids, seconds=20)
            assert len(stage.all_rewards) < len(ids) + 100
        finally:
            stage.close()


@pytest.mark.parametrize("end", ["kill", "stop"])
def test_a_worker_whose_broker_is_dead_ends_at_once_and_leaves_no_child(tmp_path: Path, end: str) -> None:
    with started_broker("embedded", tmp_path) as broker:
        stage = Stage(broker.bootstrap_servers, tmp_path, "dead")
        worker = stage.start_worker()
        ids = {stage.publish("sleep 0.05", number) for number in range(400)}
        stage.read_until(lambda: len(stage.rewards) > 20)
        assert len(ids) == 400
        children = child_processes(worker.pid)
        stage.close_bus()
        if end == "kill":
            broker.kill()
        else:
            assert broker._process is not None
            broker._process.send_signal(signal.SIGSTOP)
        time.sleep(1)
        worker.send_signal(signal.SIGTERM)
        started = time.monotonic()
        assert worker.wait(timeout=20) == 0
        assert time.monotonic() - started < 8
        wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in children), seconds=3)


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

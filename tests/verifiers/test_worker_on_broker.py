"""The real worker process on a real broker: nothing is lost across kills, stops and bugs."""

import json
import signal
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from builders import make_rollout, make_term
from worker_stage import Stage, child_processes, wait_until

from brokers import running_broker, started_broker
from tristream.wire.events import Part, PartState, Status, TermMode, VerifierLoad
from tristream.wire.topics import ROLLOUTS
from tristream.wire.verifiers import BUILT_IN_VERSIONS

pytestmark = [pytest.mark.integration, pytest.mark.slow]


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
    worker = stage.start_worker(serves=("deed@7", "math"))
    texts = ["x", "hang", "crash", "raise", "huge", "wrong"]
    ids = [stage.publish(text, number) for number, text in enumerate(texts)]
    other = stage.publish("x", 50, make_term("somebody-elses", "1"))
    stage.bus.publish_barriers(ROLLOUTS, [0, 1, 2, 3], "barrier")
    header = [("contract", b"2"), ("verifiers", b"deed@7")]
    stage.bus._producer.send(stage.bus.full_name(ROLLOUTS), value=b"\xff\xfe", key=b"k", headers=header)
    stage.read_until(lambda: set(ids) <= set(stage.rewards) and bool(stage.letters))
    statuses = [stage.rewards[rollout_id].status for rollout_id in ids]
    assert statuses == [
        Status.SCORED,
        Status.TIMEOUT,
        Status.ERROR,
        Status.ERROR,
        Status.ERROR,
        Status.SCORED,
    ]
    worth = [stage.rewards[ids[index]].components for index in (0, 1, 5)]
    assert worth == [{"accuracy": 1.0}, {"accuracy": 0.0}, {"accuracy": 0.0}]
    assert other not in stage.rewards
    assert stage.letters[0].value == b"\xff\xfe"
    assert "not protobuf" in stage.letters[0].error
    counts = {"num_scored": 2, "num_unscorable": 0, "num_timeout": 1, "num_error": 3, "num_dead_letters": 1}

    def is_told() -> bool:
        status = stage.status(worker)
        expected = {**counts, "num_restarts": 2, "num_in_hand": 0, "lag_rollouts": 0}
        return status is not None and expected.items() <= status.measures.items()

    stage.read_until(is_told)
    status = stage.status(worker)
    assert status is not None
    assert (status.part, status.state, status.waiting_for) == (Part.VERIFIER, PartState.READY, "rollouts")
    assert VerifierLoad(verifier="deed", version="7", num_scored=2) in status.verifiers
    assert VerifierLoad(verifier="math", version=BUILT_IN_VERSIONS["math"], num_scored=0) in status.verifiers


def test_two_versions_and_a_shadow_are_scored_each_by_its_own_worker(stage: Stage) -> None:
    for version in ("7", "8"):
        stage.start_worker(serves=(f"deed@{version}",))
    terms = [make_term(term_id="live"), make_term(version="8", term_id="trial", mode=TermMode.SHADOW)]
    ids = {stage.publish("x", number, *terms) for number in range(40)}
    wanted = {f"{rollout_id}|{term.id}|{term.version}" for rollout_id in ids for term in terms}
    stage.read_until(lambda: {reward.id for reward in stage.all_rewards} == wanted)
    modes = {(reward.term_id, reward.version, reward.mode) for reward in stage.all_rewards}
    assert modes == {("live", "7", TermMode.ACTIVE), ("trial", "8", TermMode.SHADOW)}
    assert len(stage.all_rewards) == 80


def test_a_record_of_another_contract_is_a_dead_letter(stage: Stage) -> None:
    ids = {stage.publish("x", number) for number in range(20)}  # every partition is begun under ours
    stage.publish_raw(make_rollout("x", number=99, run=stage.run), verifiers=b"deed")
    stage.start_worker()
    stage.read_until(lambda: set(stage.rewards) == ids and bool(stage.letters))
    assert "contract 1" in stage.letters[0].error


def test_a_log_begun_under_another_contract_ends_the_worker_as_a_users_error(stage: Stage) -> None:
    stage.publish_raw(make_rollout("x", run=stage.run), verifiers=b"deed")
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
    ids = {stage.publish("sleep 0.002", number) for number in range(2500)}
    for _ in range(2):
        worker = stage.start_worker()
        stage.read_until_busy(worker)
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(timeout=60) == 0
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


def test_a_worker_whose_every_second_answer_hangs_finishes(stage: Stage) -> None:
    ids = {stage.publish("hang" if number % 2 else "x", number) for number in range(40)}
    stage.start_worker()
    stage.read_until(lambda: set(stage.rewards) == ids, seconds=90)
    statuses = {reward.group.number: reward.status for reward in stage.all_rewards}
    assert statuses == {number: Status.TIMEOUT if number % 2 else Status.SCORED for number in range(40)}


def test_killed_amid_an_upgrade_each_rollout_has_the_reward_of_the_version_that_it_asks_for(stage: Stage) -> None:
    asked = {}
    for number in range(400):  # the groups of 8 are dispatched under one definition each
        version = "7" if number < 200 else "8"
        rollout_id = stage.publish("sleep 0.01", number, make_term(version=version))
        asked[f"{rollout_id}|deed|{version}"] = number
    old, new = (stage.start_worker(serves=(f"deed@{version}",)) for version in ("7", "8"))
    stage.read_until_busy(new)
    for worker in (old, new):
        worker.send_signal(signal.SIGKILL)
        worker.wait()
    stage.start_worker(serves=("deed@7", "deed@8"))
    stage.read_until(lambda: {reward.id for reward in stage.all_rewards} == set(asked), seconds=90)


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
        guest.wait(timeout=60)
        assert lasting.poll() is None, f"it ended in round {round_number}"
    stage.read_until(lambda: set(stage.rewards) == ids, seconds=60)
    assert {reward.status for reward in stage.all_rewards} == {Status.SCORED}


def test_what_was_fetched_while_partitions_moved_is_not_lost(stage: Stage) -> None:
    lasting = stage.start_worker("--slow-resume", "0.5")
    stage.read_until_state(lasting, PartState.READY)
    ids: set[str] = set()
    for _ in range(2):
        guest = stage.start_worker()
        stage.read_until_state(guest, PartState.READY)
        deadline = time.monotonic() + 3.0
        guest.send_signal(signal.SIGTERM)
        while time.monotonic() < deadline:
            ids |= {stage.publish("x", len(ids) + number) for number in range(4)}
            stage.read_until(partial(stage.is_behind_by_less, 200, ids))
            time.sleep(0.01)
        stage.read_until(partial(stage.is_scored, ids))
    assert lasting.poll() is None


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
        assert worker.wait(timeout=60) == 0
        assert time.monotonic() - started < 8
        wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in children), seconds=3)

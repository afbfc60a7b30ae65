"""A verifier that is added while a run goes on, served by a worker of its own on a real broker."""

import hashlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from builders import PLUG_INS_FILE, make_term
from worker_stage import Stage

from brokers import running_broker
from tristream.runtime.bus.kafka import KafkaBus
from tristream.wire.events import (
    Command,
    CommandKind,
    Interval,
    Ledger,
    PartState,
    PolicyVersion,
    Status,
    TermMode,
    Weights,
)
from tristream.wire.topics import COMMANDS, POLICY

pytestmark = [pytest.mark.integration, pytest.mark.slow]

OTHERS = make_term("somebody-elses", "1")


@pytest.fixture(scope="module", params=["embedded", "kafka"])
def servers(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with running_broker(request.param, tmp_path_factory.mktemp(request.param)) as address:
        yield address


@pytest.fixture
def stage(servers: str, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Stage]:
    name = request.function.__name__.removeprefix("test_").replace("_", "-")[:60]
    stage = Stage(servers, tmp_path, name)
    stage.bus.take_over([COMMANDS], 1)  # what the stage commands is the run's own answer
    yield stage
    stage.close()


def command(stage: Stage, kind: CommandKind, *, bus: KafkaBus | None = None, **fields: Any) -> None:
    bus = bus or stage.bus
    bus.publish(
        COMMANDS,
        Command(
            run=stage.run,
            id=f"{kind}-{time.time_ns()}",
            kind=kind,
            verifier="deed",
            version="8",
            created_ns=time.time_ns(),
            **fields,
        ),
    )
    bus.flush()


def add(stage: Stage, **fields: Any) -> None:
    digest = hashlib.sha256(PLUG_INS_FILE.read_bytes()).hexdigest()
    facts = {"entry_point": f"{PLUG_INS_FILE}:deed_8", "code_sha256": digest, "components": ("accuracy",), **fields}
    command(stage, CommandKind.ADD, **facts)


def settle(stage: Stage, end: int) -> None:
    """Let the learner have settled all training groups below a number."""
    version = PolicyVersion(
        run=stage.run,
        weights=Weights(version=1, uri="none", sha256="0"),
        total_steps=10,
        durable=Ledger(step=1, settled=(Interval(start=0, end=end),)),
        created_ns=time.time_ns(),
    )
    stage.bus.publish(POLICY, version)
    stage.bus.flush()


def test_an_added_verifier_scores_its_sources_from_then_on_until_it_is_retired(stage: Stage) -> None:
    for number in range(20):
        stage.publish("x", number, OTHERS)
    stage.bus.flush()
    time.sleep(0.05)
    add(stage, sources=("shapes",), params_json='{"step_size": 2}')
    time.sleep(0.05)
    early = {stage.publish("x", number, OTHERS) for number in range(20, 40)}
    worker = stage.start_worker("--verifier", "deed@8")
    stage.read_until_state(worker, PartState.READY)
    late = {stage.publish("x", number, OTHERS) for number in range(40, 60)}
    asked = {stage.publish("x", number, make_term(version="8", term_id="asked")) for number in range(60, 70)}
    for number in range(70, 75):
        stage.publish("x", number, OTHERS, source="letters")
    stage.read_until(lambda: stage.is_scored(early | late | asked))
    modes = {(reward.term_id, reward.mode, reward.params_json) for reward in stage.all_rewards}
    assert modes == {("deed", TermMode.SHADOW, '{"step_size": 2}'), ("asked", TermMode.ACTIVE, '{"step_size": 1}')}

    person = KafkaBus(stage.run, stage.settings.bus, "person")
    command(stage, CommandKind.RETIRE, bus=person)
    person.close()
    settle(stage, 1000)
    time.sleep(1.5)
    assert worker.poll() is None, "a request is no answer of the run"
    command(stage, CommandKind.RETIRE, from_number=2000, refusal="shapes would have no verifier left")
    command(stage, CommandKind.RETIRE, from_number=1001)
    time.sleep(1.5)
    assert worker.poll() is None, "group 1000 is not settled"
    settle(stage, 1001)
    assert worker.wait(timeout=60) == 0
    stage.read_until_state(worker, PartState.DONE)
    assert {reward.status for reward in stage.all_rewards} == {Status.SCORED}
    assert stage.is_scored(early | late | asked)


def test_an_added_verifier_scores_the_log_from_its_beginning_if_it_should(stage: Stage) -> None:
    ids = {stage.publish("x", number, OTHERS) for number in range(20)}
    stage.bus.flush()
    add(stage, from_earliest=True)
    worker = stage.start_worker("--verifier", "deed@8")
    stage.read_until(lambda: stage.is_scored(ids))
    worker.terminate()
    assert worker.wait(timeout=60) == 0
    ids |= {stage.publish("x", number, OTHERS) for number in range(20, 40)}
    stage.start_worker("--verifier", "deed@8")
    stage.read_until(lambda: stage.is_scored(ids))
    assert len(stage.all_rewards) == len(ids)


def test_a_verifier_that_nobody_added_is_a_users_error(stage: Stage) -> None:
    add(stage)
    worker = stage.start_worker("--verifier", "deed@9")
    assert worker.wait(timeout=60) == 2
    assert f"run {stage.run} has no verifier deed@9" in stage.log


def test_another_file_than_the_one_that_was_added_is_a_users_error(stage: Stage) -> None:
    add(stage, code_sha256="0" * 64)
    worker = stage.start_worker("--verifier", "deed@8")
    assert worker.wait(timeout=60) == 2
    assert "it is not the file that was added as deed@8" in stage.log
    folder = stage.settings.run.folder.path / "verifiers"
    folder.mkdir(parents=True)
    (folder / "deed@8.py").write_bytes(PLUG_INS_FILE.read_bytes())
    add(stage)
    ids = {stage.publish("x", 1, OTHERS)}
    assert stage.start_worker("--verifier", "deed@8").wait(timeout=60) == 2
    assert not stage.is_scored(ids), "the first of two commands that add the same counts"

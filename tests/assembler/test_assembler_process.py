"""The assembler as a process on a real broker: it serves, publishes, says what it does, and ends in order."""

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from assembly import GROUP_SIZE, group_events, ledger_after, make_settings, publish
from brokers import running_broker
from tristream.batches.v1 import batch_service_pb2, batch_service_pb2_grpc
from tristream.config.parts import AssemblerSettings
from tristream.runtime.bus.kafka import KafkaBus
from tristream.wire.batches import Batch, Commit, CommittedStep
from tristream.wire.codecs.batches import batch_from_message, commit_to_message
from tristream.wire.codecs.ledgers import ledger_to_message
from tristream.wire.events import DropReason, Fate, Ledger, PartState
from tristream.wire.topics import OUTCOMES, PARTS

pytestmark = pytest.mark.integration

PROGRAM = """
import sys
from tristream.assembler.main import main
from tristream.config.parts import AssemblerSettings
main(AssemblerSettings.model_validate_json(sys.argv[1]))
"""


@pytest.fixture(params=["embedded", "kafka"])
def settings(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[AssemblerSettings]:
    with running_broker(request.param, tmp_path) as address:
        made = make_settings(tmp_path)
        yield made.model_copy(update={"bus": made.bus.model_copy(update={"bootstrap_servers": address})})


def wait_for_status(settings: AssemblerSettings, is_it: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
    """The first status of which something is true."""
    path, deadline = settings.run.folder.status / "assembler.json", time.monotonic() + 60.0
    while time.monotonic() < deadline:
        if path.exists() and is_it(status := json.loads(path.read_text())):
            return dict(status)
        time.sleep(0.05)
    pytest.fail(f"the assembler's status is {path.read_text()}")


def test_a_process_serves_a_step_from_a_broker_and_ends_in_order(settings: AssemblerSettings) -> None:
    bus = KafkaBus(settings.run.id, settings.bus, "test")
    bus.create_topics()
    publish(bus, *group_events(0, [1.0] * GROUP_SIZE))
    bus.flush()
    process = subprocess.Popen([sys.executable, "-c", PROGRAM, settings.model_dump_json()])
    try:
        with grpc.insecure_channel(wait_for_status(settings, lambda status: status["address"])["address"]) as channel:
            stub = batch_service_pb2_grpc.BatchServiceStub(channel)
            stub.Attach(
                batch_service_pb2.AttachRequest(run="test", ledger=ledger_to_message(Ledger(step=0))), timeout=60
            )
            wait_for_status(settings, lambda status: status["measures"].get("groups/zero_variance") == 1)
            publish(bus, *group_events(1), *group_events(2))
            bus.flush()
            answer = stub.NextBatch(batch_service_pb2.NextBatchRequest(step=1), timeout=60)
            batch = batch_from_message(answer, step=1, rank=0)
            assert isinstance(batch, Batch)
            assert (batch.trained, batch.dropped) == ((1, 2), (0,))
            step = CommittedStep(step=1, outcomes=batch.outcomes)
            stub.Commit(commit_to_message(Commit(ledger=ledger_after(batch), steps=(step,))), timeout=60)
        outcomes = [record.event for record in bus.reader([OUTCOMES]).read_to_end()]
        assert sorted((outcome.group.number, outcome.fate, outcome.drop_reason) for outcome in outcomes) == [
            (0, Fate.DROPPED, DropReason.ZERO_VARIANCE),
            (1, Fate.TRAINED, None),
            (2, Fate.TRAINED, None),
        ]
        process.terminate()
        assert process.wait(timeout=60.0) == 0
    finally:
        process.kill()
    states = [record.event.state for record in bus.reader([PARTS]).read_to_end()]
    assert (states[0], states[-1]) == (PartState.STARTING, PartState.DONE)
    bus.close()

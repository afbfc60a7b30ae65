"""The recorded log of a run in version 1 of the contract is refused by every reader, in one line."""

import gzip
import json
from base64 import b64decode
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tristream.runtime.bus.memory import MemoryBus
from tristream.runtime.errors import UserError
from tristream.wire.topics import (
    ALL_TOPICS,
    DEAD_LETTERS,
    OUTCOMES,
    PARTS,
    POLICY,
    PROMPTS,
    REWARDS,
    ROLLOUTS,
    STEPS,
    Topic,
)

RECORDING = Path(__file__).parents[1] / "data/contract_1_demo.jsonl.gz"
RUN = "digits"
EVENT_TOPICS = (PROMPTS, ROLLOUTS, REWARDS, OUTCOMES, POLICY, STEPS)


@dataclass(frozen=True, slots=True)
class RecordedRecord:
    key: str
    value: bytes
    headers: dict[str, bytes]


@pytest.fixture(scope="module")
def recording() -> dict[str, list[RecordedRecord]]:
    """Events by topic; barriers are left out."""
    events = defaultdict(list)
    with gzip.open(RECORDING, "rt") as lines:
        for record in map(json.loads, lines):
            headers = {name: b64decode(value) for name, value in record["headers"]}
            if record["value"] is not None:
                key, value = b64decode(record["key"]).decode(), b64decode(record["value"])
                events[record["topic"]].append(RecordedRecord(key, value, headers))
    return events


def replay(recording: dict[str, list[RecordedRecord]], topic: Topic[Any]) -> MemoryBus:
    bus = MemoryBus(RUN)
    for record in recording[topic.name]:
        bus.publish_raw(topic, record.key, record.value, record.headers)
    return bus


def test_the_recording_has_every_topic_that_version_1_and_this_one_share(
    recording: dict[str, list[RecordedRecord]],
) -> None:
    assert set(recording) == {topic.name for topic in EVENT_TOPICS} | {"verifiers"}
    assert {topic.name for topic in ALL_TOPICS} - set(recording) == {"commands", PARTS.name, DEAD_LETTERS.name}


@pytest.mark.parametrize("topic", EVENT_TOPICS, ids=lambda topic: topic.name)
def test_a_reader_refuses_it_in_one_line_that_names_both_versions(
    recording: dict[str, list[RecordedRecord]], topic: Topic[Any]
) -> None:
    with pytest.raises(UserError) as caught:
        list(replay(recording, topic).reader([topic]).read_to_end())
    assert str(caught.value) == (
        f"run {RUN}, topic {topic.name}: its log was written under contract 1, and this version of tristream reads "
        "contract 2; use the version that wrote it, or give another run.id"
    )


@pytest.mark.parametrize("topic", EVENT_TOPICS, ids=lambda topic: topic.name)
def test_any_of_its_records_is_refused_where_a_log_begins_with_it(
    recording: dict[str, list[RecordedRecord]], topic: Topic[Any]
) -> None:
    for record in recording[topic.name]:
        with pytest.raises(UserError, match="contract 1"):
            list(replay({topic.name: [record]}, topic).reader([topic]).read_to_end())


@pytest.mark.parametrize("topic", EVENT_TOPICS, ids=lambda topic: topic.name)
def test_in_the_log_of_another_run_its_records_are_dead_letters(
    recording: dict[str, list[RecordedRecord]], topic: Topic[Any]
) -> None:
    bus = MemoryBus("another")
    for record in recording[topic.name]:
        bus.publish_raw(topic, record.key, record.value, record.headers)
    assert not list(bus.reader([topic]).read_to_end())
    assert len(list(bus.reader([DEAD_LETTERS]).read_to_end())) == len(recording[topic.name])

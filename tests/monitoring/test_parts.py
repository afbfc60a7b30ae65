"""The processes of a run, as they say themselves: several of a part, on any machine, at work, done or silent."""

import time
from collections.abc import Callable
from typing import Any

import pytest

from tristream.config.run_file import RunFile
from tristream.monitoring.queries.overview import read_overview
from tristream.monitoring.queries.parts import read_parts
from tristream.monitoring.store.client import Client
from tristream.runtime.bus.memory import MemoryBus
from tristream.runtime.status import PartReporter
from tristream.wire import topics
from tristream.wire.events import Part, PartState, PartStatus, VerifierLoad

SECOND_NS = 10**9


@pytest.fixture
def states(
    bus: MemoryBus, client: Client, settings: RunFile, write: Callable[[], object]
) -> Callable[..., list[tuple[str, str]]]:
    """Publish statuses, and read instance and state of the processes of a part."""

    def publish_and_read(part: Part, *statuses: PartStatus) -> list[tuple[str, str]]:
        for status in statuses:
            bus.publish(topics.PARTS, status)
        write()
        rows = read_parts(client, settings.run.id)
        return [(row["instance"], row["state"]) for row in rows if row["part"] == part]

    return publish_and_read


def at(recipe: Any, part: Part, instance: str, *, started: int, told: int, **changes: Any) -> PartStatus:
    """A status whose process started, and was last heard of, so many seconds ago."""
    now_ns = time.time_ns()
    status: PartStatus = recipe.part(
        part, instance, started_ns=now_ns - started * SECOND_NS, since_ns=now_ns - started * SECOND_NS,
        created_ns=now_ns - told * SECOND_NS, **changes,
    )  # fmt: skip
    return status


def test_six_pods_of_one_part_show_as_six(recipe: Any, states: Callable[..., Any]) -> None:
    pods = [f"producer-{number}" for number in range(6)]
    statuses = [at(recipe, Part.PRODUCER, pod, started=60 - i, told=1) for i, pod in enumerate(pods)]
    assert states(Part.PRODUCER, *statuses) == [(pod, "ready") for pod in pods]


def test_the_newest_word_of_a_process_counts(recipe: Any, states: Callable[..., Any]) -> None:
    newer = at(recipe, Part.LEARNER, "a", started=50, told=1)
    older = at(recipe, Part.LEARNER, "a", started=50, told=9, state=PartState.STARTING)
    assert states(Part.LEARNER, newer, older) == [("a", "ready")]


def test_a_process_that_tells_nothing_for_a_minute_is_silent(recipe: Any, states: Callable[..., Any]) -> None:
    statuses = (
        at(recipe, Part.PRODUCER, "a", started=500, told=90),
        at(recipe, Part.PRODUCER, "b", started=400, told=30),
    )
    assert states(Part.PRODUCER, *statuses) == [("a", "silent"), ("b", "ready")]


def test_a_process_that_is_done_says_so_however_long_ago(recipe: Any, states: Callable[..., Any]) -> None:
    done = at(recipe, Part.DISPATCHER, "a", started=5000, told=4000, state=PartState.DONE)
    assert states(Part.DISPATCHER, done) == [("a", "done")]


def test_a_process_that_is_gone_gives_way_to_its_successor(recipe: Any, states: Callable[..., Any]) -> None:
    statuses = (
        at(recipe, Part.VERIFIER, "killed", started=900, told=300),
        at(recipe, Part.VERIFIER, "stopped", started=900, told=200, state=PartState.DONE),
        at(recipe, Part.VERIFIER, "killed beside the new one", started=90, told=70),
        at(recipe, Part.VERIFIER, "new", started=100, told=1),
    )
    assert states(Part.VERIFIER, *statuses) == [("new", "ready"), ("killed beside the new one", "silent")]


def test_a_part_without_a_process_is_not_started(client: Client, settings: RunFile) -> None:
    rows = read_parts(client, settings.run.id)
    assert [(row["part"], row["state"]) for row in rows] == [(part, "not started") for part in Part]


def test_what_a_reporter_tells_is_read_back(
    client: Client, settings: RunFile, bus: MemoryBus, write: Callable[[], object]
) -> None:
    reporter = PartReporter(settings.run.folder, settings.run.id, Part.MONITOR)
    reporter.connect(lambda status: bus.publish(topics.PARTS, status))
    reporter.report(PartState.READY, "events", address="http://127.0.0.1:8080/", measures={"num_events": 7})
    write()
    row = read_parts(client, settings.run.id)[-1]
    assert (row["part"], row["instance"], row["waiting_for"]) == ("monitor", reporter.instance, "events")
    assert (row["address"], row["measures"]) == ("http://127.0.0.1:8080/", {"num_events": 7})
    assert 0 <= row["told_seconds"] <= row["since_seconds"] < 60


def test_a_process_tells_its_machine_and_what_it_takes(
    client: Client, settings: RunFile, bus: MemoryBus, recipe: Any, write: Callable[[], object]
) -> None:
    measures = {"cpu_seconds": 30.0, "memory_bytes": 2.0**30, "lag_rollouts": 12.0}
    bus.publish(topics.PARTS, at(recipe, Part.VERIFIER, "gpu-box-2-4711", started=61, told=1, measures=measures))
    write()
    row = next(row for row in read_parts(client, settings.run.id) if row["part"] == "verifier")
    assert (row["host"], row["measures"]) == ("gpu-box-2", measures)
    assert row["num_cores"] == pytest.approx(0.5, rel=0.05)
    assert next(row for row in read_parts(client, settings.run.id) if row["part"] == "learner")["num_cores"] is None


def test_loads_of_all_processes_of_a_verifier_version_add_up(
    client: Client, settings: RunFile, bus: MemoryBus, recipe: Any, write: Callable[[], object]
) -> None:
    for instance, version, restarts in (("a", "1", 2), ("b", "1", 3), ("c", "2", 0)):
        load = VerifierLoad(verifier="math", version=version, num_scored=5)
        status = recipe.part(Part.VERIFIER, instance, verifiers=(load,), measures={"num_restarts": restarts})
        bus.publish(topics.PARTS, status)
    bus.publish(topics.PROMPTS, recipe.prompt(recipe.group(0)))
    write()
    rows = {(row["verifier"], row["version"]): row for row in read_overview(client, settings.run.id)["verifiers"]}
    assert (rows["math", "1"]["num_processes"], rows["math", "1"]["num_restarts"]) == (2, 5)
    assert (rows["math", "1"]["mode"], rows["math", "2"]["mode"]) == ("active", "unused")
    assert (rows["math-strict", "1"]["mode"], rows["math-strict", "1"]["num_processes"]) == ("shadow", 0)

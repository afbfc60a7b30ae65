"""Closed figures are what their definitions say, whatever came when, and wherever the sink was killed."""

import random
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import pytest

from closed_tables import Killed, MortalClient, read_differences
from tristream.monitoring.store.client import Client
from tristream.monitoring.store.definitions import all_definitions, narrow
from tristream.monitoring.store.sink import Sink
from tristream.monitoring.store.step_order import StepOrder
from tristream.runtime.bus.memory import MemoryBus
from tristream.wire import events, topics

Write = Callable[[], object]
Select = Callable[[str], list[Mapping[str, Any]]]
MakeRun = Callable[[MemoryBus, int], None]


def test_a_narrowed_view_stands_on_narrowed_rows_only() -> None:
    clause = narrow("raw_source_steps", {"kept_steps": "run = 'digits'"}, {"raw_trained_rollouts": "SELECT 1"})
    assert "kept_steps AS (SELECT * FROM steps FINAL WHERE run = 'digits')" in clause
    assert "raw_trained_rollouts AS (SELECT 1)" in clause
    assert "kept_rollouts" not in clause, "what is replaced stands on nothing"
    assert set(all_definitions()) >= {"kept_prompts", "step_ends", "raw_rounds"}


def test_a_dropped_group_counts_for_the_step_whose_report_came_next() -> None:
    order = StepOrder({1: 10, 2: 20, 3: 30})
    assert [order.at(time_ns) for time_ns in (5, 10, 11, 30, 31)] == [[1], [1], [2], [3], []]
    assert (order.span(2), order.span(1)) == ((11, 20), (-(2**63), 10))
    anew = order.updated({1: 25})
    assert [anew.at(time_ns) for time_ns in (5, 21)] == [[2], [1]]


def shuffle(bus: MemoryBus, source: MemoryBus, draw: random.Random) -> None:
    """Publish what is on another bus, topics in any order against each other."""
    queues = {
        topic: [record.event for record in source.reader([topic]).read_to_end()]
        for topic in (topics.PROMPTS, topics.ROLLOUTS, topics.REWARDS, topics.OUTCOMES, topics.STEPS)
    }
    while queues:
        topic = draw.choice(sorted(queues, key=lambda topic: topic.name))
        for event in queues[topic][: (count := draw.randint(1, 80))]:
            bus.publish(topic, event)
        queues[topic] = queues[topic][count:]
        if not queues[topic]:
            del queues[topic]


def read_some(bus: MemoryBus, client: Client, draw: random.Random) -> int:
    """One life of a sink that writes a few small batches, or is killed."""
    sink = Sink(bus, client, flush_seconds=0.0)
    num_records = 0
    try:
        for _ in range(draw.randint(1, 3)):
            sink._records = list(sink._reader.poll(0.0, max_records=draw.randint(20, 120)))
            num_records += len(sink._records)
            sink.flush()
    finally:
        sink.close()
    return num_records


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("seed", [1, 2])
def test_rows_in_any_order_and_many_kills_leave_closed_figures_exact(
    seed: int, bus: MemoryBus, client: Client, recipe: Any, make_run: MakeRun, write: Write
) -> None:
    draw = random.Random(seed)
    whole = MemoryBus(bus.run)
    make_run(whole, 4)
    add_second_thoughts(whole, recipe)
    shuffle(bus, whole, draw)
    num_kills = 0
    is_read = False
    while num_kills < 20 and not is_read:
        mortal = MortalClient(client)
        mortal.statements_left, mortal.dies_after = draw.randint(1, 12), draw.random() < 0.5
        try:
            is_read = read_some(bus, mortal, draw) == 0
        except Killed:
            num_kills += 1
    write()
    assert read_differences(client, bus.run) == []
    assert num_kills >= 10


def add_second_thoughts(bus: MemoryBus, recipe: Any) -> None:
    """A learner that went back two steps and trained other groups, drops that came late, a group dispatched anew."""
    reports = [record.event for record in bus.reader([topics.STEPS]).read_to_end()]
    third, fourth = reports[2], reports[3]
    later_ns = fourth.created_ns + 10**9
    moved = replace(third, outcomes=third.outcomes[1:] + fourth.outcomes[:1], created_ns=later_ns)
    bus.publish(topics.STEPS, moved)
    bus.publish(topics.STEPS, replace(fourth, outcomes=fourth.outcomes[2:], created_ns=later_ns + 10**9))
    for number, time_ns in ((900, third.created_ns - 1), (901, later_ns - 1), (902, later_ns + 5 * 10**9)):
        recipe.created_ns = time_ns
        group = recipe.group(number)
        bus.publish(topics.PROMPTS, recipe.prompt(group))
        drop = recipe.outcome(group, events.Fate.DROPPED, 0, events.DropReason.STALE, [1.0, 0.0, None, 0.5])
        bus.publish(topics.OUTCOMES, drop)
        bus.publish(topics.REWARDS, recipe.reward(group, 0, 1.0))
    recipe.created_ns = later_ns + 10**9
    bus.publish(topics.PROMPTS, recipe.prompt(recipe.group(900)))


def test_a_step_that_is_trained_anew_with_other_groups_leaves_nothing_of_the_old_ones(
    bus: MemoryBus, client: Client, recipe: Any, write: Write, select: Select
) -> None:
    for number, source in ((0, "digits_sum"), (1, "digits_read"), (2, "digits_read")):
        group = recipe.group(number, source)
        bus.publish(topics.PROMPTS, recipe.prompt(group))
        for index in range(4):
            bus.publish(topics.ROLLOUTS, recipe.rollout(group, index))
            bus.publish(topics.REWARDS, recipe.reward(group, index, 1.0))
    outcomes = {
        number: recipe.outcome(recipe.group(number, source), events.Fate.TRAINED, 1, rewards=[1.0, 0.0, 0.0, 1.0])
        for number, source in ((0, "digits_sum"), (1, "digits_read"), (2, "digits_read"))
    }
    query = "SELECT step, source, num_rollouts FROM source_steps WHERE run = {run:String} ORDER BY step, source"
    bus.publish(topics.STEPS, recipe.step(1, [outcomes[0], outcomes[1]]))
    recipe.created_ns += 10**9
    bus.publish(topics.STEPS, recipe.step(2, [outcomes[2]]))
    write()
    assert [tuple(row.values()) for row in select(query)] == [
        (1, "digits_read", 4), (1, "digits_sum", 4), (2, "digits_read", 4),
    ]  # fmt: skip
    recipe.created_ns += 10**9
    bus.publish(topics.STEPS, recipe.step(1, [outcomes[1], outcomes[2]]))
    write()
    assert [tuple(row.values()) for row in select(query)] == [(1, "digits_read", 8), (2, "digits_read", 4)]
    judged = "SELECT step, num_judged FROM source_groups WHERE run = {run:String} ORDER BY step"
    assert [tuple(row.values()) for row in select(judged)] == [(1, 8)], "a group counts once, where it was trained last"
    assert read_differences(client, bus.run) == []


def test_what_comes_after_its_step_was_closed_is_in_its_figures_at_once(
    bus: MemoryBus, client: Client, recipe: Any, write: Write, select: Select
) -> None:
    group = recipe.group(0)
    bus.publish(topics.STEPS, recipe.step(1, [recipe.trained(0, 1)]))
    write()
    query = "SELECT num_rollouts, mean_metric FROM source_steps WHERE run = {run:String}"
    assert select(query) == []
    for index in range(4):
        bus.publish(topics.ROLLOUTS, recipe.rollout(group, index))
    write()
    assert select(query) == [{"num_rollouts": 4, "mean_metric": None}]
    bus.publish(topics.PROMPTS, recipe.prompt(group))
    for index in range(4):
        bus.publish(topics.REWARDS, recipe.reward(group, index, index / 4))
    write()
    assert select(query) == [{"num_rollouts": 4, "mean_metric": 0.375}]
    assert read_differences(client, bus.run) == []


def test_figures_that_the_database_refuses_to_compute_cost_no_others(
    bus: MemoryBus, client: Client, recipe: Any, select: Select, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(3):
        bus.publish(topics.PROMPTS, recipe.prompt(recipe.group(number)))
        bus.publish(topics.STEPS, recipe.step(number + 1, [recipe.trained(number, number + 1)]))
        recipe.created_ns += 10**9
    command = client.command

    def refuse_second(cmd: str, parameters: dict[str, Any] | None = None) -> object:
        if "INTO closed_judged_groups" in cmd and "2" in cmd.rpartition("step IN")[2].partition(")")[0]:
            raise RuntimeError("Code: 241. Memory limit exceeded")
        return command(cmd, parameters)

    monkeypatch.setattr(client, "command", refuse_second)
    sink = Sink(bus, client, flush_seconds=0.0)
    sink.drain()
    sink.close()
    assert [row["step"] for row in select("SELECT step FROM source_groups WHERE run = {run:String} ORDER BY step")] == [
        1, 3,
    ]  # fmt: skip

"""A run in numbers, read back from its events."""

from collections.abc import Callable
from typing import Any

from tristream.config.run_file import RunFile
from tristream.monitoring.queries.select import select
from tristream.monitoring.queries.summary import read_summary
from tristream.monitoring.store.client import Client
from tristream.monitoring.store.sink import Sink
from tristream.runtime.bus.memory import MemoryBus
from tristream.wire import topics
from tristream.wire.events import DropReason, Fate

Write = Callable[[], Sink]

DISPATCHED = "SELECT DISTINCT number FROM prompts WHERE run = {run:String} AND split = 'train' ORDER BY number"
OUTCOMES = """
    SELECT DISTINCT number, fate, step, reason FROM group_outcomes
    WHERE run = {run:String} ORDER BY number, fate, step, reason
"""


def group_facts(client: Client, run: str) -> tuple[list[int], list[tuple[int, str, int, str]]]:
    """Numbers of the dispatched training groups, and every distinct outcome of one."""
    dispatched = [row["number"] for row in select(client, DISPATCHED, run=run)]
    outcomes = [(row["number"], row["fate"], row["step"], row["reason"]) for row in select(client, OUTCOMES, run=run)]
    return dispatched, outcomes


def publish_evaluation(bus: MemoryBus, recipe: Any, version: int, accuracies: list[float]) -> None:
    for number, accuracy in enumerate(accuracies):
        group = recipe.group(number, eval_step=version)
        bus.publish(topics.PROMPTS, recipe.prompt(group))
        bus.publish(topics.ROLLOUTS, recipe.rollout(group, 0, version=version))
        bus.publish(topics.REWARDS, recipe.reward(group, 0, accuracy))


def test_evaluation_is_read_from_the_first_and_the_last_complete_round(
    bus: MemoryBus, client: Client, settings: RunFile, recipe: Any, write: Write
) -> None:
    publish_evaluation(bus, recipe, 0, [0.0, 1.0])
    publish_evaluation(bus, recipe, 4, [1.0, 1.0])
    publish_evaluation(bus, recipe, 6, [0.0])
    bus.publish(topics.PROMPTS, recipe.prompt(recipe.group(1, eval_step=6)))
    bus.publish(topics.STEPS, recipe.step(6, [recipe.trained(0, 6)]))
    write()
    summary = read_summary(client, settings.run.id)
    assert summary["steps"] == 6
    assert summary["sources"]["digits_sum"] == {
        "metric": "accuracy",
        "eval_before": 0.5,
        "eval_after": 1.0,
        "components": {"math.accuracy": {"eval_before": 0.5, "eval_after": 1.0}},
    }
    assert summary["sources"]["digits_read"] == {
        "metric": "accuracy",
        "eval_before": None,
        "eval_after": None,
        "components": {},
    }
    assert summary["phases"] == {"wait": 1.0, "forward_backward": 2.0, "optimizer": 0.25, "publish": 0.1}
    assert summary["lost"]["dead_letters"] == 0


def test_a_round_whose_prompts_are_not_read_yet_is_not_complete(
    bus: MemoryBus, client: Client, settings: RunFile, recipe: Any, write: Write
) -> None:
    group = recipe.group(0, eval_step=2)
    bus.publish(topics.ROLLOUTS, recipe.rollout(group, 0))
    bus.publish(topics.REWARDS, recipe.reward(group, 0, 1.0))
    write()
    assert read_summary(client, settings.run.id)["sources"]["digits_sum"]["eval_after"] is None
    bus.publish(topics.PROMPTS, recipe.prompt(group))
    write()
    assert read_summary(client, settings.run.id)["sources"]["digits_sum"]["eval_after"] == 1.0


def test_group_facts_show_every_distinct_outcome(
    bus: MemoryBus, client: Client, settings: RunFile, recipe: Any, write: Write
) -> None:
    for number in range(3):
        bus.publish(topics.PROMPTS, recipe.prompt(recipe.group(number)))
    for _ in range(2):
        bus.publish(topics.OUTCOMES, recipe.outcome(recipe.group(0), Fate.TRAINED, 1))
    bus.publish(topics.OUTCOMES, recipe.outcome(recipe.group(1), Fate.TRAINED, 1))
    bus.publish(topics.OUTCOMES, recipe.outcome(recipe.group(1), Fate.DROPPED, 0, DropReason.STALE))
    write()
    dispatched, outcomes = group_facts(client, settings.run.id)
    assert dispatched == [0, 1, 2]
    assert outcomes == [(0, "trained", 1, ""), (1, "dropped", 0, "stale"), (1, "trained", 1, "")]


def test_a_drop_is_void_once_the_group_was_dispatched_again(
    bus: MemoryBus, client: Client, settings: RunFile, recipe: Any, write: Write
) -> None:
    group = recipe.group(0)
    bus.publish(topics.PROMPTS, recipe.prompt(group))
    bus.publish(topics.OUTCOMES, recipe.outcome(group, Fate.DROPPED, 0, DropReason.ZERO_VARIANCE))
    write()
    assert group_facts(client, settings.run.id)[1] == [(0, "dropped", 0, "zero_variance")]
    resumed = MemoryBus(settings.run.id)
    recipe.created_ns += 1
    resumed.publish(topics.PROMPTS, recipe.prompt(group))
    resumed.publish(topics.OUTCOMES, recipe.outcome(group, Fate.TRAINED, 2))
    Sink(resumed, client, flush_seconds=0.0).drain()
    assert group_facts(client, settings.run.id)[1] == [(0, "trained", 2, "")]

"""Where a run stands, on a whole run and on an empty one."""

from collections.abc import Callable
from typing import Any

from tristream.config.parts import MonitorSettings
from tristream.config.run_file import RunFile
from tristream.monitoring.queries.overview import describe_run, read_groups, read_head, read_overview
from tristream.monitoring.queries.select import plain
from tristream.monitoring.store.client import Client
from tristream.runtime.bus.memory import MemoryBus
from tristream.wire import events, topics


def test_a_whole_run_adds_up(client: Client, example: RunFile) -> None:
    overview = read_overview(client, example.run.id)
    groups = overview["groups"]
    assert (groups["trained"], groups["used"], groups["pending"]) == (48, 48, 0)
    assert groups["dispatched"] == 48 + sum(groups["dropped"].values())
    assert overview["step"]["num_trained_tokens"] == 6 * 32 * 10
    assert overview["step_seconds"] == 4.0
    assert overview["num_dead_letters"] == 1
    assert groups == read_groups(client, example.run.id)
    assert read_head(client, example.run.id).items() <= overview.items()


def test_evaluation_has_before_and_now_of_each_source(client: Client, example: RunFile) -> None:
    for facts in read_overview(client, example.run.id)["evaluation"].values():
        assert (facts["before"]["eval_step"], facts["now"]["eval_step"]) == (0, 6)
        assert [row["num_judged"] for row in facts["rounds"]] == [12, 12, 12]


def test_an_unfinished_round_is_neither_before_nor_now(
    client: Client, bus: MemoryBus, recipe: Any, write: Callable[[], object], settings: RunFile
) -> None:
    for number in range(2):
        bus.publish(topics.PROMPTS, recipe.prompt(recipe.group(number, eval_step=0)))
    bus.publish(topics.ROLLOUTS, recipe.rollout(recipe.group(0, eval_step=0), 0))
    bus.publish(topics.REWARDS, recipe.reward(recipe.group(0, eval_step=0), 0, 1.0))
    write()
    facts = read_overview(client, settings.run.id)["evaluation"]["digits_sum"]
    assert (facts["before"], facts["now"], len(facts["rounds"])) == (None, None, 1)


def test_every_verifier_is_listed_with_its_mode_and_latency(client: Client, example: RunFile) -> None:
    verifiers = {row["verifier"]: row for row in read_overview(client, example.run.id)["verifiers"]}
    assert verifiers["math-strict"]["mode"] == "shadow"
    assert verifiers["math-strict"]["num_rewards"] == 0
    assert (verifiers["math"]["mode"], verifiers["math"]["num_processes"]) == ("active", 1)
    assert 0.002 <= verifiers["math"]["score_seconds_p50"] <= verifiers["math"]["score_seconds_p95"] <= 0.03


def test_a_drop_that_is_older_than_its_prompt_leaves_the_group_pending(
    client: Client, bus: MemoryBus, recipe: Any, write: Callable[[], object], settings: RunFile
) -> None:
    bus.publish(topics.OUTCOMES, recipe.outcome(recipe.group(0), events.Fate.DROPPED, 0, events.DropReason.STALE))
    recipe.created_ns += 10**9
    bus.publish(topics.PROMPTS, recipe.prompt(recipe.group(0)))
    write()
    expected = {"dispatched": 1, "used": 0, "trained": 0, "dropped": {}, "pending": 1}
    assert read_groups(client, settings.run.id) == expected


def test_an_empty_run_has_an_overview(client: Client, settings: RunFile) -> None:
    overview = read_overview(client, settings.run.id)
    assert (overview["step"]["num_steps"], overview["step_seconds"], overview["evaluation"]) == (0, None, {})


def test_a_run_file_is_described_by_what_people_look_for(settings: RunFile) -> None:
    facts = describe_run(MonitorSettings.of(settings))
    assert (facts["total_steps"], facts["max_staleness"], facts["group_size"]) == (6, 1, 4)
    assert facts["sources"][3] == {"name": "digits_find", "metric": "accuracy"}


def test_values_that_json_lacks_become_null() -> None:
    assert plain({1: (float("nan"), float("inf"), "x", 2.5)}) == {"1": [None, None, "x", 2.5]}

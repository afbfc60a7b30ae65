"""The search of rollouts: what is asked for is found, page by page, in bounded time, with every verdict."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from tristream.config.run_file import RunFile
from tristream.monitoring.queries.rollout_details import MAX_TEXT, read_rollout
from tristream.monitoring.queries.rollout_search import Search, parse_cursor, search_rollouts
from tristream.monitoring.store.client import Client
from tristream.runtime.bus.memory import MemoryBus
from tristream.wire import events, topics

Rows = list[dict[str, Any]]


def find(client: Client, settings: RunFile, limit: int = 100, **wanted: Any) -> Rows:
    """All that is found, over all pages."""
    rows: Rows = []
    cursor, pages = "", 0
    while cursor or not pages:
        page = search_rollouts(client, settings.run.id, Search(**wanted), limit=limit, cursor=cursor, seconds=60.0)
        rows += page["rollouts"]
        cursor, pages = page["next"], pages + 1
        assert pages < 200
    return rows


def key(row: dict[str, Any]) -> tuple[Any, ...]:
    return row["split"], row["eval_step"], row["eval_attempt"], row["number"], row["rollout_index"]


def test_pages_have_every_rollout_once(client: Client, example: RunFile) -> None:
    rows = find(client, example, limit=33)
    query = "SELECT count() FROM rollouts FINAL WHERE run = {run:String}"
    assert len(rows) == client.query(query, {"run": example.run.id}).result_rows[0][0]
    assert len({key(row) for row in rows}) == len(rows)


def test_the_newest_come_first(client: Client, example: RunFile) -> None:
    numbers = [row["number"] for row in find(client, example, split="train")]
    assert numbers == sorted(numbers, reverse=True)
    steps = [row["eval_step"] for row in find(client, example, split="eval")]
    assert steps == sorted(steps, reverse=True)
    newest = search_rollouts(client, example.run.id, Search(), limit=5)["rollouts"]
    assert {(row["split"], row["eval_step"]) for row in newest} == {("eval", 6)}


def test_one_of_each_group_is_what_it_says(client: Client, example: RunFile) -> None:
    rows = find(client, example, limit=7, split="train", one_each=True)
    every = find(client, example, split="train")
    assert [row["number"] for row in rows] == sorted({row["number"] for row in every}, reverse=True)


@pytest.mark.parametrize(
    ("wanted", "holds"),
    [
        ({"source": "digits_find"}, lambda row: row["source"] == "digits_find"),
        ({"text": "WAIT, let"}, lambda row: "wait, let" in row["text"].lower()),
        ({"text": "find every"}, lambda row: "Find every" in row["prompt"]),
        ({"min_reward": 0.5}, lambda row: row["reward"] is not None and row["reward"] >= 0.5),
        ({"max_reward": 0.05}, lambda row: row["reward"] is not None and row["reward"] <= 0.05),
        ({"status": "scored", "split": "eval"}, lambda row: row["split"] == "eval"),
        ({"status": "timeout"}, lambda _row: False),
        ({"status": "waiting"}, lambda _row: False),
        (
            {"split": "eval", "first_step": 3, "last_step": 3},
            lambda row: row["split"] == "eval" and row["eval_step"] == 3,
        ),
        (
            {"split": "train", "first_step": 2, "last_step": 3},
            lambda row: row["split"] == "train" and 2 <= (row["at_step"] or row["step"]) <= 3,
        ),
    ],
)
def test_a_search_finds_exactly_those_that_are_so(
    client: Client, example: RunFile, wanted: dict[str, Any], holds: Callable[[dict[str, Any]], bool]
) -> None:
    every = find(client, example)
    assert [key(row) for row in find(client, example, **wanted)] == [key(row) for row in every if holds(row)]


def test_a_search_that_is_cut_says_so_and_goes_on(client: Client, example: RunFile) -> None:
    search = Search(text="nobody writes this")
    first = search_rollouts(client, example.run.id, search, seconds=0.0)
    assert first["rollouts"] == []
    assert first["hint"].startswith("The search was cut after 0 s; it came down to ")
    cursor, pages = first["next"], 1
    while cursor:
        cursor = search_rollouts(client, example.run.id, search, cursor=cursor, seconds=60.0)["next"]
        pages += 1
    assert pages == 2


def test_a_cursor_is_only_what_an_answer_gave(client: Client, example: RunFile) -> None:
    told = search_rollouts(client, example.run.id, Search(), limit=3)["next"]
    assert set(parse_cursor(told)) == {"train", "eval"}
    with pytest.raises(ValueError, match="run=1"):
        parse_cursor("run=1")


def test_a_rollout_comes_with_its_reward_and_its_boxes(client: Client, example: RunFile) -> None:
    rollout = find(client, example, split="eval", source="digits_find")[0]
    assert rollout["true_boxes"] == [{"box": [100.0, 200.0, 400.0, 700.0], "label": "7"}]
    assert len(rollout["predicted_boxes"]) == 1
    assert rollout["statuses"] == {"detection": "scored"}
    assert rollout["reward"] == (rollout["components"]["detection.accuracy"] + 0.1) / 1.1


def test_verdicts_tell_what_counts_from_what_is_beside(
    client: Client, bus: MemoryBus, recipe: Any, write: Callable[[], object], settings: RunFile
) -> None:
    group = recipe.group(0)
    bus.publish(topics.PROMPTS, recipe.prompt(group))
    for index in (0, 1):
        bus.publish(topics.ROLLOUTS, recipe.rollout(group, index))
    bus.publish(topics.REWARDS, recipe.reward(group, 0, 1.0, detail="equal", params_json='{"tolerance": 0}'))
    strict = {"term_id": "math-strict", "verifier": "math-strict", "mode": events.TermMode.SHADOW}
    bus.publish(topics.REWARDS, recipe.reward(group, 0, 0.0, **strict))
    bus.publish(topics.REWARDS, recipe.reward(group, 0, 0.25, version="2"))
    bus.publish(topics.REWARDS, recipe.reward(group, 1, 0.0, status=events.Status.TIMEOUT, components={}, metrics={}))
    write()
    found = read_rollout(client, settings.run.id, ("train", 0, 0, 0, 0))
    assert found is not None
    said = {(one["verifier"], one["version"]): one for one in found["verdicts"]}
    assert (said["math", "1"]["is_active"], said["math", "1"]["is_shadow"]) == (True, False)
    assert (said["math-strict", "1"]["is_active"], said["math-strict", "1"]["is_shadow"]) == (False, True)
    assert (said["math", "2"]["is_active"], said["math", "2"]["is_shadow"]) == (False, False)
    assert (said["math", "1"]["detail"], said["math", "1"]["params_json"]) == ("equal", '{"tolerance": 0}')
    assert found["components"] == {"math.accuracy": 1.0, "math.format": 1.0}
    other = read_rollout(client, settings.run.id, ("train", 0, 0, 0, 1))
    assert other is not None
    assert [one["verifier"] for one in other["awaited"]] == ["math-strict"]
    assert [key(row)[-1] for row in find(client, settings, status="timeout")] == [1]


def test_a_rollout_without_a_verdict_is_waiting(
    client: Client, bus: MemoryBus, recipe: Any, write: Callable[[], object], settings: RunFile
) -> None:
    bus.publish(topics.ROLLOUTS, recipe.rollout(recipe.group(0), 0))
    write()
    assert find(client, settings, status="judged") == []
    assert [row["number"] for row in find(client, settings, status="waiting")] == [0]


def test_a_step_tells_the_reward_before_its_outcome_is_there(
    client: Client, bus: MemoryBus, recipe: Any, write: Callable[[], object], settings: RunFile
) -> None:
    bus.publish(topics.STEPS, recipe.step(1, [recipe.trained(0, 1, (0.25, 1.0, 0.0, 0.5))]))
    for index in range(4):
        bus.publish(topics.ROLLOUTS, recipe.rollout(recipe.group(0), index))
    write()
    rows = find(client, settings, min_reward=0.5)
    assert [(row["rollout_index"], row["reward"], row["fate"], row["at_step"]) for row in rows] == [
        (1, 1.0, "trained", 1),
        (3, 0.5, "trained", 1),
    ]
    whole = read_rollout(client, settings.run.id, ("train", 0, 0, 0, 1))
    assert whole is not None
    assert [one["reward"] for one in whole["siblings"]] == [0.25, 1.0, 0.0, 0.5]


def test_of_several_turns_the_whole_conversation_before_the_last_answer_is_shown(
    client: Client, bus: MemoryBus, recipe: Any, write: Callable[[], object], settings: RunFile
) -> None:
    rollout = recipe.rollout(recipe.group(0), 0)
    turns = {"segments": rollout.segments * 2, "prompt_text": "6*7? <calc>6*7</calc> 42", "text": "It is 42."}
    bus.publish(topics.PROMPTS, recipe.prompt(recipe.group(0)))
    bus.publish(topics.ROLLOUTS, replace(rollout, **turns))
    bus.publish(topics.ROLLOUTS, recipe.rollout(recipe.group(1), 0))
    write()
    shown = {row["number"]: row for row in find(client, settings)}
    assert (shown[0]["prompt"], shown[0]["text"]) == ("6*7? <calc>6*7</calc> 42", "It is 42.")
    assert shown[1]["prompt"] == rollout.prompt_text
    assert len(shown[0]["image_hashes"]) == 2


def test_long_texts_are_cut_in_lists_and_whole_alone(
    client: Client, bus: MemoryBus, recipe: Any, write: Callable[[], object], settings: RunFile
) -> None:
    bus.publish(topics.ROLLOUTS, recipe.rollout(recipe.group(0), 0, text="x" * 9999))
    write()
    assert len(find(client, settings)[0]["text"]) == MAX_TEXT
    alone = read_rollout(client, settings.run.id, ("train", 0, 0, 0, 0))
    assert alone is not None
    assert len(alone["text"]) == 9999


def test_an_unknown_rollout_is_none(client: Client, example: RunFile) -> None:
    assert read_rollout(client, example.run.id, ("train", 0, 0, 12345, 0)) is None

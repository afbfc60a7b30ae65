"""Rollouts for people: the best and the worst with their boxes, found in what models write."""

from collections.abc import Callable
from typing import Any

import pytest

from tristream.config.run_file import RunFile
from tristream.monitoring.queries.answer_boxes import MAX_BOXES, find_boxes, is_in_pixels
from tristream.monitoring.queries.gallery import read_extreme_rollouts, read_image_row
from tristream.monitoring.store.client import Client
from tristream.runtime.bus.memory import MemoryBus
from tristream.wire import topics


def test_extremes_are_of_the_newest_round_and_disjoint(client: Client, example: RunFile) -> None:
    for kinds in read_extreme_rollouts(client, example.run.id, 3).values():
        rows = [*kinds["best"], *kinds["worst"]]
        assert {(row["split"], row["eval_step"]) for row in rows} == {("eval", 6)}
        assert len({row["number"] for row in rows}) == len(rows)
        rewards = [row["reward"] for row in rows]
        assert rewards == sorted(rewards, reverse=True)


def test_without_a_complete_round_extremes_are_of_the_training(
    client: Client, bus: MemoryBus, recipe: Any, write: Callable[[], object], settings: RunFile
) -> None:
    rewards = (0.25, 1.0, 0.0, 0.5)
    bus.publish(topics.STEPS, recipe.step(1, [recipe.trained(0, 1, rewards)]))
    for index, value in enumerate(rewards):
        bus.publish(topics.ROLLOUTS, recipe.rollout(recipe.group(0), index))
        bus.publish(topics.REWARDS, recipe.reward(recipe.group(0), index, value))
    write()
    found = read_extreme_rollouts(client, settings.run.id, 1)["digits_sum"]
    assert ([row["reward"] for row in found["best"]], [row["reward"] for row in found["worst"]]) == ([1.0], [0.0])


def test_an_unknown_image_is_none(client: Client, example: RunFile) -> None:
    assert read_image_row(client, example.run.id, "0" * 64) is None


@pytest.mark.parametrize(
    ("text", "boxes"),
    [
        ('[{"bbox_2d": [1, 2, 3.5, 4], "label": "7"}]', [([1.0, 2.0, 3.5, 4.0], "7")]),
        ("{'bbox_2d': [-1, 2, 3, 4]", [([-1.0, 2.0, 3.0, 4.0], "")]),
        ('{"bbox_2d": [1, 2, 3]}', []),
        ("no boxes", []),
    ],
)
def test_boxes_are_found_in_broken_json_too(text: str, boxes: list[tuple[list[float], str]]) -> None:
    assert [(box["box"], box["label"]) for box in find_boxes(text)] == boxes


def test_a_flood_of_boxes_is_cut() -> None:
    assert len(find_boxes('{"bbox_2d": [1, 2, 3, 4]}' * 999)) == MAX_BOXES


@pytest.mark.parametrize(
    ("params", "expected"),
    [('{"det_verifier_normalized": true}', True), ("{}", False), ("", False), ("not json", False), ("[1]", False)],
)
def test_only_the_parameters_say_that_boxes_are_in_pixels(params: str, expected: bool) -> None:
    assert is_in_pixels(params) is expected

"""The best step is the one whose held-out mean over all sources is the highest."""

from collections.abc import Callable
from typing import Any

import pytest

from tristream.config.run_file import RunFile
from tristream.monitoring.queries.best_step import read_held_out_means
from tristream.monitoring.store.client import Client
from tristream.runtime.bus.memory import MemoryBus
from tristream.wire import topics


def publish_round(bus: MemoryBus, recipe: Any, step: int, values: dict[str, list[float]], missing: int = 0) -> None:
    """A held-out round: the accuracy of each answer by source; so many prompts more have no answer."""
    number = 0
    for source, accuracies in values.items():
        for accuracy in accuracies:
            group = recipe.group(number, source, eval_step=step)
            bus.publish(topics.PROMPTS, recipe.prompt(group))
            bus.publish(topics.ROLLOUTS, recipe.rollout(group, 0, version=step))
            bus.publish(topics.REWARDS, recipe.reward(group, 0, accuracy))
            number += 1
    for _ in range(missing):
        bus.publish(topics.PROMPTS, recipe.prompt(recipe.group(number, source, eval_step=step)))
        number += 1


def test_means_are_over_sources_and_only_of_rounds_that_all_of_them_have_completed(
    bus: MemoryBus, client: Client, settings: RunFile, recipe: Any, write: Callable[[], object]
) -> None:
    publish_round(bus, recipe, 0, {"digits_sum": [0.0, 1.0], "digits_read": [0.0]})
    publish_round(bus, recipe, 2, {"digits_sum": [1.0, 1.0], "digits_read": [0.0, 1.0, 1.0, 0.0]})
    publish_round(bus, recipe, 4, {"digits_sum": [1.0, 0.0], "digits_read": [1.0]})
    publish_round(bus, recipe, 6, {"digits_sum": [1.0]})
    publish_round(bus, recipe, 8, {"digits_sum": [1.0], "digits_read": [1.0]}, missing=1)
    write()
    means = read_held_out_means(client, settings.run.id)
    assert list(means) == [2, 4, 0], "of equal ones the earlier is the better"
    assert list(means.values()) == pytest.approx([0.75, 0.75, 0.25])


def test_a_run_without_a_complete_round_has_no_best_step(client: Client, settings: RunFile) -> None:
    assert read_held_out_means(client, settings.run.id) == {}

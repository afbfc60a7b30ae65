"""Curves: every step of every source, few points however long the run, and no spike lost."""

from collections.abc import Callable
from typing import Any

from tristream.config.run_file import RunFile
from tristream.monitoring.metrics import SOURCE_METRICS
from tristream.monitoring.queries.curves import read_axes, read_curves, read_layers
from tristream.monitoring.store.client import Client
from tristream.runtime.bus.memory import MemoryBus
from tristream.wire import topics

SOURCES = {"digits_read", "digits_count", "digits_sum", "digits_find"}


def test_each_series_has_each_source(client: Client, example: RunFile) -> None:
    curves = read_curves(client, example.run.id)
    sources = curves["sources"]
    assert sorted(sources) == sorted(metric.name for metric in SOURCE_METRICS)
    assert [panel["key"] for panel in (*curves["panels"]["main"], *curves["panels"]["more"])] == list(sources)
    for name in ("judged_reward", "mean_reward", "entropy", "coverage"):
        assert set(sources[name]) == SOURCES
    assert all(len(one["x"]) == len(one["y"]) for metric in sources.values() for one in metric.values())


def test_reward_rises_and_entropy_falls_as_they_do_in_the_run(client: Client, example: RunFile) -> None:
    sources = read_curves(client, example.run.id)["sources"]
    for source in SOURCES:
        entropy = sources["entropy"][source]["y"]
        assert entropy[0] > entropy[-1]
    rewards = [sources["mean_reward"][source]["y"] for source in SOURCES]
    assert sum(curve[-1] for curve in rewards) > sum(curve[0] for curve in rewards)


def test_components_and_global_curves_are_named_as_in_the_events(client: Client, example: RunFile) -> None:
    curves = read_curves(client, example.run.id)
    assert set(curves["components"]["digits_find"]) == {"detection.accuracy", "detection.format"}
    assert set(curves["kinds"]["metric"]["digits_find"]) == {"detection.num_answers"}
    assert curves["metrics"]["grad_norm"]["y"][:2] == [2.0, 1.5]
    assert set(curves["phase_seconds"]) == {"wait", "forward_backward", "optimizer", "publish"}
    assert curves["max_age"] == {"x": [1, 2, 3, 4, 5, 6], "y": [0.0, *[1.0] * 5]}


def test_curves_have_at_most_the_points_asked_for(client: Client, example: RunFile) -> None:
    curves = read_curves(client, example.run.id, max_points=3)
    assert curves["metrics"]["loss"]["x"] == [2, 4, 6]
    assert all(len(curve["x"]) <= 3 for curve in curves["sources"]["mean_reward"].values())


def test_layers_are_in_the_order_of_the_model(client: Client, example: RunFile) -> None:
    assert list(read_layers(client, example.run.id)) == [f"model.layers.{layer}" for layer in range(4)]


def test_a_part_is_asked_for_by_itself(client: Client, example: RunFile) -> None:
    main = read_curves(client, example.run.id, parts=["main"])
    assert {"components", "metrics"} & set(main) == set()
    assert set(main["sources"]) == {metric.name for metric in SOURCE_METRICS if metric.page == "main"}
    assert set(read_curves(client, example.run.id, parts=["learner"])) == {
        "range",
        "metrics",
        "phase_seconds",
        "max_age",
    }


def test_a_spike_stays_when_its_step_shares_a_point(
    client: Client, bus: MemoryBus, recipe: Any, write: Callable[[], object], settings: RunFile
) -> None:
    for step in range(1, 31):
        recipe.step_metrics = {"loss": 50.0 if step == 17 else 1.0}
        bus.publish(topics.STEPS, recipe.step(step, [recipe.trained(step, step)]))
    write()
    loss = read_curves(client, settings.run.id, max_points=4)["metrics"]["loss"]
    assert loss["x"] == [8, 16, 24, 30]
    assert loss["y"] == [1.0, 1.0, 7.125, 1.0]
    assert (loss["low"], loss["high"]) == ([1.0] * 4, [1.0, 1.0, 50.0, 1.0])


def test_a_zoom_shows_each_step_of_its_range(
    client: Client, bus: MemoryBus, recipe: Any, write: Callable[[], object], settings: RunFile
) -> None:
    for step in range(1, 31):
        bus.publish(topics.STEPS, recipe.step(step, [recipe.trained(step, step)]))
    write()
    curves = read_curves(client, settings.run.id, max_points=4, first=16, last=19)
    assert curves["metrics"]["loss"]["x"] == [16, 17, 18, 19]
    assert "low" not in curves["metrics"]["loss"]
    assert curves["axes"]["steps"] == [8, 16, 24, 30]


def test_axes_tell_the_time_and_the_tokens_of_steps(client: Client, example: RunFile) -> None:
    axes = read_axes(client, example.run.id)
    assert axes["steps"] == [1, 2, 3, 4, 5, 6]
    assert axes["seconds"] == [0.0, 4.0, 8.0, 12.0, 16.0, 20.0]
    assert axes["tokens"] == [320 * step for step in range(1, 7)]


def test_a_run_without_steps_has_no_curves(client: Client, settings: RunFile) -> None:
    curves = read_curves(client, settings.run.id)
    assert (curves["metrics"], curves["components"], curves["axes"]["steps"]) == ({}, {}, [])

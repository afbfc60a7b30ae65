"""Curves: every step of every source, and few points however long the run."""

from hypothesis import given
from hypothesis import strategies as st

from tristream.config.run_file import RunFile
from tristream.monitoring.metrics import SOURCE_METRICS
from tristream.monitoring.queries.curves import read_curves, read_layers, thin
from tristream.monitoring.store.client import Client

SOURCES = {"digits_read", "digits_count", "digits_sum", "digits_find"}


def test_each_series_has_each_source(client: Client, example: RunFile) -> None:
    curves = read_curves(client, example.run.id)
    sources = curves["sources"]
    assert list(sources) == [metric.name for metric in SOURCE_METRICS]
    assert [panel["key"] for panel in (*curves["panels"]["main"], *curves["panels"]["more"])] == list(sources)
    for curves in sources.values():
        assert set(curves) == SOURCES
        assert all(len(curve["x"]) == len(curve["y"]) for curve in curves.values())


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
    assert curves["metrics"]["grad_norm"]["y"][:2] == [2.0, 1.5]
    assert set(curves["phase_seconds"]) == {"wait", "forward_backward", "optimizer", "publish"}
    assert curves["max_age"] == {"x": [1, 2, 3, 4, 5, 6], "y": [0.0, *[1.0] * 5]}


def test_curves_have_at_most_the_points_asked_for(client: Client, example: RunFile) -> None:
    curves = read_curves(client, example.run.id, max_points=3)
    assert curves["metrics"]["loss"]["x"] == [2, 4, 6]
    assert all(len(curve["x"]) <= 3 for curve in curves["sources"]["mean_reward"].values())


def test_layers_are_in_the_order_of_the_model(client: Client, example: RunFile) -> None:
    assert list(read_layers(client, example.run.id)) == [f"model.layers.{layer}" for layer in range(4)]


def test_thinning_takes_means_of_neighbours() -> None:
    assert thin([1, 2, 3, 4, 5], [1.0, 3.0, None, 5.0, None], 3) == {"x": [2, 4, 5], "y": [2.0, 5.0, None]}


@given(st.lists(st.one_of(st.none(), st.floats(-1e6, 1e6)), max_size=300), st.integers(1, 50))
def test_thinning_keeps_the_last_step_and_the_range(values: list[float | None], max_points: int) -> None:
    curve = thin(list(range(len(values))), values, max_points)
    assert len(curve["x"]) == len(curve["y"]) <= max_points
    assert curve["x"][-1:] == [len(values) - 1][: len(values)]
    known = [value for value in values if value is not None]
    slack = 1e-5 * max((abs(value) for value in known), default=0.0)
    for value in curve["y"]:
        assert value is None or min(known) - slack <= value <= max(known) + slack

"""Curves of a run by step: per source, global, per layer; thinned so that long runs stay light."""

from collections.abc import Sequence
from typing import Any

from tristream.monitoring.metrics import MAIN_METRICS, MORE_METRICS, SOURCE_METRICS
from tristream.monitoring.queries.select import Rows, select
from tristream.monitoring.store.client import Client

MAX_POINTS = 400

_SOURCE_STEPS = "SELECT * FROM source_steps WHERE run = {run:String} ORDER BY step, source"
_SOURCE_GROUPS = "SELECT * FROM source_groups WHERE run = {run:String} ORDER BY step, source"
_BY_VIEW = {"source_steps": _SOURCE_STEPS, "source_groups": _SOURCE_GROUPS}
_COMPONENTS = """
    SELECT source, name, step, mean_value FROM source_components
    WHERE run = {run:String} AND kind = 'component' ORDER BY source, name, step
"""
_STEPS = """
    SELECT step, metrics, phase_seconds, max_age, num_completion_tokens
    FROM steps FINAL WHERE run = {run:String} ORDER BY step
"""
_LAYERS = "SELECT step, layer_grad_norms FROM steps FINAL WHERE run = {run:String} ORDER BY step"


def read_curves(client: Client, run: str, max_points: int = MAX_POINTS) -> dict[str, Any]:
    """Curves as ``{"x": [...], "y": [...]}``: by metric and source, by component, by global metric.

    ``panels`` says how the metrics of sources are shown, the ``main`` ones and ``more``.
    """
    panels = {
        "main": [metric.to_panel() for metric in MAIN_METRICS],
        "more": [metric.to_panel() for metric in MORE_METRICS],
    }
    return {
        "panels": panels,
        "sources": _read_sources(client, run, max_points),
        "components": _read_components(client, run, max_points),
        **_read_global(client, run, max_points),
    }


def read_layers(client: Client, run: str) -> dict[str, Any]:
    """Gradient norm by layer and step, as curves by layer."""
    rows = select(client, _LAYERS, run=run)
    names = sorted({name for row in rows for name in row["layer_grad_norms"]}, key=_natural_key)
    steps = [row["step"] for row in rows]
    return {name: thin(steps, [row["layer_grad_norms"].get(name) for row in rows], max_points=80) for name in names}


def thin(x: Sequence[float], y: Sequence[float | None], max_points: int = MAX_POINTS) -> dict[str, list[float | None]]:
    """At most ``max_points`` points: means of neighbours, at the last x of each bucket."""
    width = max(1, -(-len(x) // max_points))
    thin_x: list[float | None] = []
    thin_y: list[float | None] = []
    for start in range(0, len(x), width):
        values = [value for value in y[start : start + width] if value is not None]
        thin_x.append(x[min(start + width, len(x)) - 1])
        thin_y.append(float(f"{sum(values) / len(values):.6g}") if values else None)
    return {"x": thin_x, "y": thin_y}


def _read_sources(client: Client, run: str, max_points: int) -> dict[str, Any]:
    rows_by_view = {view: _by(select(client, query, run=run), "source") for view, query in _BY_VIEW.items()}
    return {
        metric.name: {
            source: thin([row["step"] for row in rows], [row[metric.name] for row in rows], max_points)
            for source, rows in rows_by_view[metric.view].items()
        }
        for metric in SOURCE_METRICS
    }


def _read_components(client: Client, run: str, max_points: int) -> dict[str, Any]:
    rows = select(client, _COMPONENTS, run=run)
    return {
        source: {
            name: thin([row["step"] for row in named], [row["mean_value"] for row in named], max_points)
            for name, named in _by(source_rows, "name").items()
        }
        for source, source_rows in _by(rows, "source").items()
    }


def _read_global(client: Client, run: str, max_points: int) -> dict[str, Any]:
    rows = select(client, _STEPS, run=run)
    steps = [row["step"] for row in rows]
    result: dict[str, Any] = {}
    for key in ("metrics", "phase_seconds"):
        names = sorted({name for row in rows for name in row[key]})
        result[key] = {name: thin(steps, [row[key].get(name) for row in rows], max_points) for name in names}
    result["max_age"] = thin(steps, [row["max_age"] for row in rows], max_points)
    return result


def _by(rows: Rows, key: str) -> dict[str, Rows]:
    result: dict[str, Rows] = {}
    for row in rows:
        result.setdefault(row[key], []).append(row)
    return result


def _natural_key(name: str) -> tuple[object, ...]:
    """Layer 10 after layer 9."""
    return tuple((0, int(part), "") if part.isdigit() else (1, 0, part) for part in name.split("."))

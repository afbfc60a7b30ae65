"""Curves of a run by step: per source, global, per layer; thinned in the database so that long runs stay light.

Steps are put into at most so many buckets of equal width. A point is the mean of its bucket at the last step of it;
``low`` and ``high`` are the least and the largest value there, so that no spike is lost. Asked for fewer steps, the
same number of points shows more.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from tristream.monitoring.metrics import SOURCE_METRICS, Metric
from tristream.monitoring.queries.select import Rows, select, select_one
from tristream.monitoring.store.client import Client

MAX_POINTS = 400
MAX_LAYER_POINTS = 80
PARTS = ("main", "more", "components", "learner")
"""What can be asked for by itself."""
KINDS = ("component", "weighted", "metric", "shadow", "threshold", "unscored")
"""Kinds of what verifiers say, in the order in which they are shown; the last two are by verifier version."""

_RANGE = "SELECT min(step) AS first, max(step) AS last, count() AS n FROM steps WHERE run = {run:String}"
_BUCKET = "intDiv(step - {first:Int64}, {width:Int64}) AS bucket"
_BETWEEN = "run = {run:String} AND step BETWEEN {first:Int64} AND {last:Int64}"
_SOURCES = f"""
    SELECT source, {_BUCKET}, max(step) AS x, $columns
    FROM $view WHERE {_BETWEEN} GROUP BY source, bucket ORDER BY source, bucket
"""
_COMPONENTS = f"""
    SELECT
        source, name, kind, {_BUCKET}, max(step) AS x,
        avg(mean_value) AS y, min(mean_value) AS low, max(mean_value) AS high
    FROM source_components WHERE {_BETWEEN}
    GROUP BY source, name, kind, bucket ORDER BY source, name, kind, bucket
"""
_VERSIONS = f"""
    SELECT
        source, concat(verifier, '@', version, if(mode = 'shadow', ' (shadow)', '')) AS name, '$kind' AS kind,
        {_BUCKET}, max(step) AS x, avg($value) AS y, min($value) AS low, max($value) AS high
    FROM verifier_steps WHERE {_BETWEEN} AND isNotNull($value)
    GROUP BY source, name, bucket ORDER BY source, name, bucket
"""
_OF_VERSIONS = {"threshold": "threshold", "unscored": "1 - num_scored / num_rewards"}
_STEPS = f"""
    SELECT
        {_BUCKET}, max(step) AS x,
        avgMap(metrics) AS metrics_y, minMap(metrics) AS metrics_low, maxMap(metrics) AS metrics_high,
        avgMap(phase_seconds) AS phase_seconds_y, minMap(phase_seconds) AS phase_seconds_low,
        maxMap(phase_seconds) AS phase_seconds_high,
        avg(max_age) AS age_y, min(max_age) AS age_low, max(max_age) AS age_high
    FROM (SELECT step, metrics, phase_seconds, max_age FROM steps FINAL WHERE {_BETWEEN})
    GROUP BY bucket ORDER BY bucket
"""
_LAYERS = f"""
    SELECT {_BUCKET}, max(step) AS x, avgMap(layer_grad_norms) AS norms
    FROM (SELECT step, layer_grad_norms FROM steps FINAL WHERE {_BETWEEN}) GROUP BY bucket ORDER BY bucket
"""
_AXES = f"""
    SELECT
        {_BUCKET}, max(step) AS last_step, max(toUnixTimestamp64Milli(created)) AS created_ms,
        sum(num_completion_tokens) AS num_tokens
    FROM (SELECT step, created, num_completion_tokens FROM steps FINAL WHERE {_BETWEEN})
    GROUP BY bucket ORDER BY bucket
"""
_BEGUN = "SELECT count() AS n, toUnixTimestamp64Milli(min(created)) AS begun_ms FROM policy WHERE run = {run:String}"

Curve = dict[str, list[Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """Steps that are shown, in buckets."""

    first: int
    last: int
    max_points: int

    @property
    def width(self) -> int:
        """Steps of a bucket."""
        return max(1, -(-(self.last - self.first + 1) // self.max_points))

    @property
    def parameters(self) -> dict[str, int]:
        """What queries bind."""
        return {"first": self.first, "last": self.last, "width": self.width}


def read_curves(
    client: Client,
    run: str,
    max_points: int = MAX_POINTS,
    *,
    parts: Iterable[str] = PARTS,
    first: int | None = None,
    last: int | None = None,
) -> dict[str, Any]:
    """Curves as ``{"x": [...], "y": [...]}``, with ``low`` and ``high`` where a point stands for several steps.

    ``panels`` says how the metrics of sources are shown, the ``main`` ones and ``more``; ``sources`` has them by metric
    and source, ``components`` by source and name, ``kinds`` the same of what verifiers say beside, ``metrics`` and
    ``phase_seconds`` those of the learner, ``axes`` what wall time and trained tokens a step stands for.

    Args:
        client: the database.
        run: the run.
        max_points: most points of a curve.
        parts: some of ``PARTS``; the keys of others are left out.
        first: first step to show; None is the first of all.
        last: last step to show.
    """
    window = _window(client, run, max_points, first, last)
    result: dict[str, Any] = {"range": {"first": window.first, "last": window.last, "width": window.width}}
    wanted = set(parts)
    metrics = [metric for name, group in _GROUPS.items() if name in wanted for metric in group]
    if metrics:
        result["panels"] = {name: [metric.to_panel() for metric in group] for name, group in _GROUPS.items()}
        result["sources"] = _read_sources(client, run, window, metrics)
        result["axes"] = read_axes(client, run, max_points)
    if "components" in wanted:
        by_kind = _read_components(client, run, window)
        result["components"] = by_kind.pop("component", {})
        result["kinds"] = by_kind
    if "learner" in wanted:
        result |= _read_global(client, run, window)
    return result


_GROUPS = {name: [metric for metric in SOURCE_METRICS if metric.page == name] for name in ("main", "more")}


def read_layers(client: Client, run: str) -> dict[str, Any]:
    """Gradient norm by layer and step, as curves by layer."""
    window = _window(client, run, MAX_LAYER_POINTS, None, None)
    rows = select(client, _LAYERS, run=run, **window.parameters)
    names = sorted({name for row in rows for name in row["norms"]}, key=_natural_key)
    steps = [row["x"] for row in rows]
    return {name: {"x": steps, "y": [_rounded(row["norms"].get(name)) for row in rows]} for name in names}


def read_axes(client: Client, run: str, max_points: int = MAX_POINTS) -> Curve:
    """``steps``, the ``seconds`` since the run began at which each was done, and the ``tokens`` trained until then."""
    window = _window(client, run, max_points, None, None)
    rows = select(client, _AXES, run=run, **window.parameters)
    begun = select_one(client, _BEGUN, run=run)
    begun_ms = begun["begun_ms"] if begun["n"] else min((row["created_ms"] for row in rows), default=0)
    tokens, axes = 0, Curve(steps=[], seconds=[], tokens=[])
    for row in rows:
        tokens += row["num_tokens"]
        axes["steps"].append(row["last_step"])
        axes["seconds"].append(max(0.0, (row["created_ms"] - begun_ms) / 1000))
        axes["tokens"].append(tokens)
    return axes


def _window(client: Client, run: str, max_points: int, first: int | None, last: int | None) -> Window:
    known = select_one(client, _RANGE, run=run)
    low, high = (known["first"], known["last"]) if known["n"] else (1, 0)
    low = low if first is None else max(low, first)
    high = high if last is None else min(high, last)
    return Window(first=low, last=high, max_points=max_points)


def _read_sources(client: Client, run: str, window: Window, metrics: Sequence[Metric]) -> dict[str, Any]:
    rows_by_view = {view: _by(_read_view(client, run, window, view, metrics), "source") for view in _views(metrics)}
    return {
        metric.name: {
            source: _curve(rows, window, *(f"{metric.name}_{end}" for end in ("y", "low", "high")))
            for source, rows in rows_by_view[metric.view].items()
        }
        for metric in metrics
    }


def _views(metrics: Sequence[Metric]) -> list[str]:
    return list(dict.fromkeys(metric.view for metric in metrics))


def _read_view(client: Client, run: str, window: Window, view: str, metrics: Sequence[Metric]) -> Rows:
    columns = [
        f"avg({metric.expression}) AS {metric.name}_y, min({metric.expression}) AS {metric.name}_low, "
        f"max({metric.expression}) AS {metric.name}_high"
        for metric in metrics
        if metric.view == view
    ]
    query = _SOURCES.replace("$columns", ", ".join(columns)).replace("$view", view)
    return select(client, query, run=run, **window.parameters)


def _read_components(client: Client, run: str, window: Window) -> dict[str, Any]:
    """Curves by kind, source and name."""
    rows = select(client, _COMPONENTS, run=run, **window.parameters)
    for kind, value in _OF_VERSIONS.items():
        query = _VERSIONS.replace("$kind", kind).replace("$value", value)
        rows += select(client, query, run=run, **window.parameters)
    by_kind = _by(rows, "kind")
    return {
        kind: {
            source: {name: _curve(named, window) for name, named in _by(source_rows, "name").items()}
            for source, source_rows in _by(by_kind[kind], "source").items()
        }
        for kind in KINDS
        if kind in by_kind
    }


def _read_global(client: Client, run: str, window: Window) -> dict[str, Any]:
    rows = select(client, _STEPS, run=run, **window.parameters)
    result: dict[str, Any] = {"max_age": _curve(rows, window, "age_y", "age_low", "age_high")}
    for key in ("metrics", "phase_seconds"):
        names = sorted({name for row in rows for name in row[f"{key}_y"]})
        ends = ("y", "low", "high")
        result[key] = {
            name: _curve(
                [{"x": row["x"], **{end: row[f"{key}_{end}"].get(name) for end in ends}} for row in rows], window
            )
            for name in names
        }
    return result


def _curve(rows: Rows, window: Window, y: str = "y", low: str = "low", high: str = "high") -> Curve:
    curve = Curve(x=[row["x"] for row in rows], y=[_rounded(row[y]) for row in rows])
    if window.width > 1:
        curve |= {"low": [_rounded(row[low]) for row in rows], "high": [_rounded(row[high]) for row in rows]}
    return curve


def _rounded(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.6g}")


def _by(rows: Rows, key: str) -> dict[str, Rows]:
    result: dict[str, Rows] = {}
    for row in rows:
        result.setdefault(row[key], []).append(row)
    return result


def _natural_key(name: str) -> tuple[object, ...]:
    """Layer 10 after layer 9."""
    return tuple((0, int(part), "") if part.isdigit() else (1, 0, part) for part in name.split("."))

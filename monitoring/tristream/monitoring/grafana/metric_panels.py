"""Panels of metrics: the registry says what is asked, in which unit, and what it means."""

from collections.abc import Sequence

from tristream.monitoring.grafana.links import rollouts_of_point
from tristream.monitoring.grafana.panels import Panel
from tristream.monitoring.grafana.variables import RUN, SOURCES, VERIFIERS
from tristream.monitoring.metrics import Metric, Unit, find_metric

GRAFANA_UNITS = {Unit.SHARE: "percentunit", Unit.SECONDS: "s", Unit.BYTES: "bytes", Unit.WORDS: "none"}
"""Units of Grafana; the others are plain numbers, ``short``."""


def metric_panel(*names: str, title: str = "", is_of_one_source: bool = False, width: int = 8) -> Panel:
    """A time series of one metric or several.

    Args:
        names: of metrics; those of another unit than the first are drawn against a second axis.
        title: of the panel; empty means the first metric's.
        is_of_one_source: a variable chooses one source, so that curves need not name it.
        width: columns of the grid.
    """
    metrics = [find_metric(name) for name in names]
    first = metrics[0]
    labels = [column for column in first.per if not (column == "source" and is_of_one_source)]
    label_text = " ".join(f"${{__field.labels.{label}}}" for label in labels)
    queries = _queries(metrics)
    columns = {} if "name" in first.per else {metric.name: metric for metric in metrics}
    is_single = len(columns) < 2
    return Panel(
        title=title or first.title,
        description=" ".join(
            metric.meaning if len(metrics) == 1 else f"{metric.title}: {metric.meaning}" for metric in metrics
        ),
        sql=queries[0],
        more_sql=queries[1:],
        unit=grafana_unit(first),
        width=width,
        series_name=(label_text or first.title) if is_single else "",
        titles_by_column={}
        if is_single
        else {name: f"{label_text} {metric.title}".strip() for name, metric in columns.items()},
        units_by_column={
            name: grafana_unit(metric) for name, metric in columns.items() if metric.unit is not first.unit
        },
        links=[rollouts_of_point()] if "source" in first.per and first.view.startswith("source_") else (),
    )


def grafana_unit(metric: Metric) -> str:
    """Its unit by the name that Grafana has for it."""
    return GRAFANA_UNITS.get(metric.unit, "short")


def _queries(metrics: Sequence[Metric]) -> list[str]:
    """One query for all metrics that are columns of the same rows, and one for all that are rows of the same view."""
    together: dict[tuple[object, ...], list[Metric]] = {}
    for metric in metrics:
        rows = () if "name" in metric.per else metric.where
        together.setdefault((metric.view, metric.table, metric.per, metric.time, rows), []).append(metric)
    return [_query(group) for group in together.values()]


def _query(metrics: Sequence[Metric]) -> str:
    first = metrics[0]
    if "name" in first.per:
        values, kinds = "mean_value AS value", " OR ".join(metric.where for metric in metrics)
        rows = f"({kinds})" if len(metrics) > 1 else kinds
    else:
        values = ", ".join(f"{metric.expression} AS {metric.name}" for metric in metrics)
        rows = first.where
    columns = ", ".join((f"{first.time} AS time", *first.per, values))
    conditions = " AND ".join(part for part in (conditions_of(first), f"$__timeFilter({first.time})", rows) if part)
    order = ", ".join(("time", *first.per))
    return f"SELECT {columns}\nFROM {first.table or first.view} WHERE {conditions} ORDER BY {order}"


def conditions_of(metric: Metric) -> str:
    """What the variables of a dashboard choose of its rows."""
    chosen = [SOURCES if "source" in metric.per else RUN]
    if "verifier" in metric.per:
        chosen.append(VERIFIERS)
    return " AND ".join(chosen)

"""Grafana panels as values, and their JSON.

A panel is one or several SQL queries of the ClickHouse data source plugin (``grafana-clickhouse-datasource`` 4) and
how to draw their columns. In a time series the column ``time`` is the x axis, text columns are labels, each number is a
curve.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

Json = dict[str, Any]

PLUGIN = "grafana-clickhouse-datasource"
PLUGIN_VERSION = "4.20.0"
"""Whose form queries and data source have; the plugin rewrites queries without one each time it loads them."""
DATASOURCE: Json = {"type": PLUGIN, "uid": "${datasource}"}
"""The data source that the dashboard's variable ``datasource`` names."""

NUM_COLUMNS = 24
_TIME_SERIES_FORMAT = 0
_TABLE_FORMAT = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """What is asked, and its picture."""

    title: str
    description: str
    """What is shown and what to look for, for the tooltip of the title."""
    sql: str
    more_sql: Sequence[str] = ()
    """Further queries, whose curves are drawn beside."""
    kind: Literal["stat", "timeseries", "table"] = "timeseries"
    unit: str = "short"
    """A unit of Grafana, such as ``s`` or ``percentunit``."""
    width: int = 8
    """Columns of the grid, which has 24."""
    height: int = 8
    """Rows of the grid, of 30 pixels each."""
    series_name: str = ""
    """Name of a curve, such as ``${__field.labels.source}``; empty means the column's."""
    is_stacked: bool = False
    """Curves are bars on top of each other."""
    min_interval: str = ""
    """Shortest interval of the query, such as ``10s``; empty means what the time range gives."""
    red_above: float | None = None
    """Values above this are red."""
    units_by_column: Mapping[str, str] = field(default_factory=dict)
    """Units of the columns that have another one; a time series draws them against a second axis."""
    titles_by_column: Mapping[str, str] = field(default_factory=dict)
    """Names of the curves of some columns, in place of ``series_name``."""
    links: Sequence[Json] = ()
    """Where a click on a value leads; see ``links.py``."""
    hidden_columns: Sequence[str] = ()
    """Columns of a table that only its links need."""

    def to_json(self, number: int, *, x: int, y: int) -> Json:
        """The panel as Grafana stores it, at a place of the grid."""
        is_time_series = self.kind == "timeseries"
        panel: Json = {
            "id": number,
            "title": self.title,
            "description": self.description,
            "type": self.kind,
            "datasource": DATASOURCE,
            "gridPos": {"x": x, "y": y, "w": self.width, "h": self.height},
            "targets": [
                make_target(sql, is_time_series=is_time_series, ref_id=chr(ord("A") + position))
                for position, sql in enumerate((self.sql, *self.more_sql))
            ],
            "fieldConfig": {"defaults": self._field_defaults(), "overrides": self._overrides()},
            "options": self._options(),
        }
        if self.min_interval:
            panel["interval"] = self.min_interval
        return panel

    def _field_defaults(self) -> Json:
        defaults: Json = {"unit": self.unit, "custom": self._drawing()}
        if self.series_name:
            defaults["displayName"] = self.series_name
        if self.links:
            defaults["links"] = list(self.links)
        if self.red_above is not None:
            steps = [{"color": "green", "value": None}, {"color": "red", "value": self.red_above}]
            defaults["thresholds"] = {"mode": "absolute", "steps": steps}
            defaults["color"] = {"mode": "thresholds"}
        elif self.kind == "stat":
            defaults["color"] = {"mode": "fixed", "fixedColor": "text"}
        return defaults

    def _drawing(self) -> Json:
        if self.kind != "timeseries":
            return {}
        if self.is_stacked:
            return {
                "drawStyle": "bars",
                "fillOpacity": 80,
                "lineWidth": 0,
                "stacking": {"mode": "normal", "group": "A"},
            }
        # Curves that are measured at different times share a frame, in which the others are null.
        return {"drawStyle": "line", "lineWidth": 2, "spanNulls": True, "showPoints": "auto"}

    def _overrides(self) -> list[Json]:
        properties: dict[str, list[Json]] = {}
        for column, unit in self.units_by_column.items():
            properties.setdefault(column, []).append({"id": "unit", "value": unit})
            if self.kind == "timeseries":
                properties[column].append({"id": "custom.axisPlacement", "value": "right"})
        for column, title in self.titles_by_column.items():
            properties.setdefault(column, []).append({"id": "displayName", "value": title})
        for column in self.hidden_columns:
            properties.setdefault(column, []).append({"id": "custom.hidden", "value": True})
        return [
            {"matcher": {"id": "byName", "options": column}, "properties": values}
            for column, values in properties.items()
        ]

    def _options(self) -> Json:
        if self.kind == "stat":
            reduce = {"calcs": ["lastNotNull"], "fields": "", "values": False}
            return {"reduceOptions": reduce, "graphMode": "none", "textMode": "auto", "colorMode": "value"}
        if self.kind == "table":
            return {"cellHeight": "sm", "showHeader": True}
        return {
            "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True},
            "tooltip": {"mode": "multi", "sort": "desc"},
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A heading and the panels below it."""

    title: str
    panels: Sequence[Panel]
    repeat: str = ""
    """A variable: the row is there once for each value that is chosen, which its queries see alone."""


def make_target(sql: str, *, is_time_series: bool, ref_id: str = "A") -> Json:
    """A query as the plugin stores it."""
    return {
        "refId": ref_id,
        "datasource": DATASOURCE,
        "pluginVersion": PLUGIN_VERSION,
        "editorType": "sql",
        "queryType": "timeseries" if is_time_series else "table",
        "format": _TIME_SERIES_FORMAT if is_time_series else _TABLE_FORMAT,
        "meta": {},
        "rawSql": sql,
    }


def lay_out(rows: Sequence[Row]) -> list[Json]:
    """Place the panels from left to right and from top to bottom, each row under its heading."""
    placed: list[Json] = []
    y = 0
    for row in rows:
        placed.append(_heading(row, len(placed) + 1, y))
        x, y, line_height = 0, y + 1, 0
        for panel in row.panels:
            if x + panel.width > NUM_COLUMNS:
                x, y, line_height = 0, y + line_height, 0
            placed.append(panel.to_json(len(placed) + 1, x=x, y=y))
            x, line_height = x + panel.width, max(line_height, panel.height)
        y += line_height
    return placed


def _heading(row: Row, number: int, y: int) -> Json:
    heading: Json = {
        "id": number,
        "type": "row",
        "title": row.title,
        "collapsed": False,
        "gridPos": {"x": 0, "y": y, "w": NUM_COLUMNS, "h": 1},
        "panels": [],
    }
    return heading | {"repeat": row.repeat, "repeatDirection": "h"} if row.repeat else heading

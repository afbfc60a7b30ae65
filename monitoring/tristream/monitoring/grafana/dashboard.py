"""What all dashboards have in common, and the parts that several of them show."""

from collections.abc import Sequence

from tristream.monitoring.grafana.annotations import all_annotations
from tristream.monitoring.grafana.links import TAG, between_dashboards
from tristream.monitoring.grafana.panels import Json, Panel, Row, lay_out
from tristream.monitoring.grafana.variables import all_variables, text_variable

SCHEMA_VERSION = 42
"""Grafana's own, of its dashboards; older ones are rewritten each time they are loaded."""


def make_dashboard(
    uid: str, title: str, description: str, rows: Sequence[Row], *, more_variables: Sequence[Json] = ()
) -> Json:
    """A dashboard as Grafana stores it."""
    return {
        "uid": uid,
        "title": title,
        "description": description,
        "tags": [TAG],
        "schemaVersion": SCHEMA_VERSION,
        "editable": False,
        "graphTooltip": 1,
        "timezone": "browser",
        "time": {"from": "now-3h", "to": "now"},
        "refresh": "30s",
        "timepicker": {"refresh_intervals": ["10s", "30s", "1m", "5m"]},
        "links": between_dashboards(),
        "annotations": {"list": all_annotations()},
        "templating": {"list": [*all_variables(), *more_variables]},
        "panels": lay_out(rows),
    }


def stat(title: str, description: str, sql: str, unit: str = "short", red_above: float | None = None) -> Panel:
    """One number, large."""
    return Panel(
        title=title, description=description, sql=sql, kind="stat", unit=unit, width=3, height=4, red_above=red_above
    )


def point_variable() -> Json:
    """Whose rollouts are listed: a moment in milliseconds, filled in by a click on a point; empty means the newest."""
    return text_variable("at", "Rollouts at (ms)")

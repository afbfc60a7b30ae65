"""docs/metrics.md and docs/alerts.md, made from the registry and the alert rules."""

from tristream.monitoring.grafana.alert_form import INTERVAL_SECONDS, anchor
from tristream.monitoring.grafana.alerts import ALERTS, Alert
from tristream.monitoring.metrics import METRICS_BY_TOPIC, Metric

COMMAND = "python -m tristream.monitoring.grafana"

_METRICS_HEAD = f"""# Metrics

Every number that page, report, Grafana and alerts show, made from the registry `tristream.monitoring.metrics` by
`{COMMAND}`. A value is a column or an expression of a view or table of the run's database
([monitoring/README.md](../monitoring/README.md) lists them); each row names its run, and *per* says what else tells
rows apart. *page* is the live page and the report; `run`, `source` and `pipeline` are Grafana's dashboards; an alert is
named by its title.

"Correct" means that the source's metric is at least `correct_at` of the run file. What has no value, such as the length
of correct answers where none is correct, is NULL and never 0.
"""

_ALERTS_HEAD = f"""# Alerts

What Grafana watches, what each alert means, and what to do. Made from `tristream.monitoring.grafana.alerts` by
`{COMMAND}`. Rules are asked every {INTERVAL_SECONDS} seconds of all runs of the database that have told of
themselves within an hour. Each has a number for every run and thing that it watches; without any, all is well. A query
that fails is an alert of its own.
"""


def render_metrics() -> str:
    """The text of ``docs/metrics.md``."""
    sections = [_METRICS_HEAD]
    for topic, metrics in METRICS_BY_TOPIC.items():
        lines = ["| metric | unit | meaning | value | shown |", "| --- | --- | --- | --- | --- |"]
        lines += map(_metric_line, metrics)
        sections.append(f"## {topic}\n\n" + "\n".join(lines) + "\n")
    return "\n".join(sections)


def _metric_line(metric: Metric) -> str:
    where = f", where `{_cell(metric.where)}`" if metric.where else ""
    per = f"; per {', '.join(metric.per)}" if metric.per else ""
    value = f"`{metric.view}`: `{_cell(metric.expression)}`{where}{per}"
    return f"| `{metric.name}`<br>{metric.title} | {metric.unit} | {metric.meaning} | {value} | {_shown(metric)} |"


def _shown(metric: Metric) -> str:
    alerts = [f"[{alert.title}](alerts.md#{anchor(alert)})" for alert in ALERTS if metric.name in alert.metrics]
    places = [*(["page"] if metric.page else []), *metric.dashboards, *alerts]
    return ", ".join(places) or "SQL"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def render_alerts() -> str:
    """The text of ``docs/alerts.md``."""
    return "\n".join([_ALERTS_HEAD, *map(_alert_section, ALERTS)])


def _alert_section(alert: Alert) -> str:
    side = "above" if alert.is_wrong == "gt" else "below"
    watched = ", ".join(f"[`{name}`](metrics.md)" for name in alert.metrics)
    remedies = "\n".join(f"- {remedy}" for remedy in alert.remedies)
    return f"""## {alert.title}

{alert.meaning}

Fires {side} {alert.limit:g} after {alert.wait}; {alert.severity}; `{alert.uid}`; watches {watched}.

{remedies}

```sql
{alert.sql}
```
"""

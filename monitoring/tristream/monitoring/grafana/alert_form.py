"""Alert rules as Grafana wants them: over its API, and as a provisioning file."""

import re
from typing import Any

from tristream.monitoring.grafana.alerts import ALERTS, Alert
from tristream.monitoring.grafana.panels import PLUGIN, Json, make_target
from tristream.monitoring.grafana.variables import DATASOURCE_UID

FOLDER = "tristream"
"""Uid and title of the folder of dashboards and rules."""
GROUP = "tristream"
INTERVAL_SECONDS = 60
RUNBOOK = "alerts.md"
_WINDOW_SECONDS = 600


def anchor(alert: Alert) -> str:
    """Where the runbook tells of it, as GitHub and most others name headings."""
    return re.sub(r"[^\w -]", "", alert.title.lower()).replace(" ", "-")


def build_rules(documents: str) -> list[Json]:
    """The rules of the group.

    Args:
        documents: address of the folder with the runbook ``alerts.md``.
    """
    return [_rule(alert, documents.rstrip("/")) for alert in ALERTS]


def build_provisioning() -> Json:
    """The provisioning file; Grafana's environment says where the documents are, as ``TRISTREAM_DOCS``."""
    rules = [_escape_dollars(rule) for rule in build_rules("")]
    for rule in rules:
        rule["annotations"]["runbook_url"] = "$TRISTREAM_DOCS" + rule["annotations"]["runbook_url"]
    group = {"orgId": 1, "name": GROUP, "folder": FOLDER, "interval": f"{INTERVAL_SECONDS}s", "rules": rules}
    return {"apiVersion": 1, "groups": [group]}


def _rule(alert: Alert, documents: str) -> Json:
    query = make_target(alert.sql, is_time_series=False) | {
        "datasource": {"type": PLUGIN, "uid": DATASOURCE_UID},
        "intervalMs": 1000,
        "maxDataPoints": 43200,
    }
    return {
        "uid": alert.uid,
        "title": alert.title,
        "condition": "B",
        "data": [
            {
                "refId": "A",
                "queryType": "table",
                "relativeTimeRange": {"from": _WINDOW_SECONDS, "to": 0},
                "datasourceUid": DATASOURCE_UID,
                "model": query,
            },
            {
                "refId": "B",
                "queryType": "",
                "relativeTimeRange": {"from": 0, "to": 0},
                "datasourceUid": "__expr__",
                "model": _threshold(alert),
            },
        ],
        "noDataState": "OK",
        "execErrState": "Error",
        "for": alert.wait,
        "labels": {"severity": alert.severity, "team": "tristream"},
        "annotations": {
            "summary": alert.summary,
            "description": alert.meaning,
            "runbook_url": f"{documents}/{RUNBOOK}#{anchor(alert)}",
        },
        "isPaused": False,
    }


def _threshold(alert: Alert) -> Json:
    return {
        "refId": "B",
        "type": "threshold",
        "datasource": {"type": "__expr__", "uid": "__expr__"},
        "expression": "A",
        "conditions": [
            {
                "type": "query",
                "evaluator": {"type": alert.is_wrong, "params": [alert.limit]},
                "operator": {"type": "and"},
                "query": {"params": ["A"]},
                "reducer": {"type": "last", "params": []},
            }
        ],
    }


def _escape_dollars(value: Any) -> Any:  # noqa: ANN401 - JSON
    """Grafana expands ``$NAME`` in provisioning files; ``$$`` is a dollar."""
    if isinstance(value, str):
        return value.replace("$", "$$")
    if isinstance(value, list):
        return [_escape_dollars(item) for item in value]
    if isinstance(value, dict):
        return {key: _escape_dollars(item) for key, item in value.items()}
    return value

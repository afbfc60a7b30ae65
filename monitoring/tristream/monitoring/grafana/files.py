"""The files that are made from the registry and committed: dashboards, alert rules, documents."""

import json
from collections.abc import Mapping
from pathlib import Path

from tristream.monitoring.grafana.alert_form import build_provisioning
from tristream.monitoring.grafana.documents import render_alerts, render_metrics
from tristream.monitoring.grafana.panels import Json
from tristream.monitoring.grafana.pipeline_dashboard import build_pipeline
from tristream.monitoring.grafana.run_dashboard import build_run
from tristream.monitoring.grafana.source_dashboard import build_source


def build_dashboards() -> dict[str, Json]:
    """The dashboards by the names of their files."""
    return {"run": build_run(), "source": build_source(), "pipeline": build_pipeline()}


def render_files() -> Mapping[str, str]:
    """The text of each file, by its path in the repository."""
    return {
        **{
            f"monitoring/grafana/dashboards/{name}.json": _to_text(dashboard)
            for name, dashboard in build_dashboards().items()
        },
        "monitoring/grafana/provisioning/alerting/tristream.json": _to_text(build_provisioning()),
        "docs/metrics.md": render_metrics(),
        "docs/alerts.md": render_alerts(),
    }


def write_files(root: Path) -> None:
    """Write them into a checkout of the repository."""
    for name, text in render_files().items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


def _to_text(value: Json) -> str:
    return json.dumps(value, indent=1, ensure_ascii=False) + "\n"

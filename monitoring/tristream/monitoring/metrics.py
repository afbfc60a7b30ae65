"""The registry: every metric of a run, the one list behind the live page, the report, Grafana and docs/metrics.md."""

from tristream.monitoring.registry.components import COMPONENT_METRICS, EVALUATION_METRICS
from tristream.monitoring.registry.metric import Metric, Unit
from tristream.monitoring.registry.processes import PART_METRICS, STEP_METRICS, WORK_METRICS
from tristream.monitoring.registry.sources import FURTHER_METRICS, MAIN_METRICS, MORE_METRICS
from tristream.monitoring.registry.verifiers import VERIFIER_METRICS

__all__ = [
    "ALL_METRICS",
    "MAIN_METRICS",
    "METRICS_BY_TOPIC",
    "MORE_METRICS",
    "SOURCE_METRICS",
    "Metric",
    "Unit",
    "find_metric",
]

METRICS_BY_TOPIC = {
    "A source by step": (*MAIN_METRICS, *MORE_METRICS, *FURTHER_METRICS),
    "What verifiers say": COMPONENT_METRICS,
    "Held-out evaluation": EVALUATION_METRICS,
    "Verifiers by version": VERIFIER_METRICS,
    "Steps of the learner": STEP_METRICS,
    "Work": WORK_METRICS,
    "Processes": PART_METRICS,
}

ALL_METRICS = tuple(metric for metrics in METRICS_BY_TOPIC.values() for metric in metrics)

SOURCE_METRICS = (*MAIN_METRICS, *MORE_METRICS)
"""Those that page and report draw as curves by source and step; each is a column of its view."""

_BY_NAME = {metric.name: metric for metric in ALL_METRICS}


def find_metric(name: str) -> Metric:
    """The metric of a name; KeyError if there is none."""
    return _BY_NAME[name]

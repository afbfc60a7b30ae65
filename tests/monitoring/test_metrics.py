"""The registry of metrics: complete, of columns that exist, and the same on page, Grafana, in alerts and documents."""

import re
from collections import Counter
from pathlib import Path

import pytest

from tristream.config.run_file import RunFile
from tristream.monitoring.grafana.documents import render_metrics
from tristream.monitoring.metrics import (
    ALL_METRICS,
    MAIN_METRICS,
    METRICS_BY_TOPIC,
    MORE_METRICS,
    SOURCE_METRICS,
    Metric,
    find_metric,
)
from tristream.monitoring.queries.curves import read_curves
from tristream.monitoring.store.client import Client

ROOT = Path(__file__).parents[2]

OF_VTRIUNE = {
    "rews_*": ["component", "mean_reward", "judged_reward"],
    "IoU at 50, 75, 95 and 99": [f"iou_{limit}_{kind}" for limit in (50, 75, 95, 99)
                                 for kind in ("pure", "precision", "recall")],
    "mAP": ["map", "map50", "map75"],
    "size penalty": ["size_penalty"],
    "weighted scores": ["weighted_iou_score_max_iou", "weighted_iou_score_max_label", "weighted_map_score",
                        "weighted_map50_score", "weighted_map75_score", "weighted_component"],
    "mean_length": ["mean_length", "evaluation_length"],
    "length_clip_ratio": ["truncated_share", "judged_truncated_share"],
    "mean_correct_length": ["mean_correct_length"],
    "length_correct_clip_ratio": ["correct_truncated_share"],
    "mean_wrong_length": ["mean_wrong_length"],
    "length_wrong_clip_ratio": ["wrong_truncated_share"],
    "reflection_ratio": ["reflection_share"],
    "reflection_ratio_in_correct_answers": ["correct_reflection_share"],
    "reflection_ratio_in_incorrect_answers": ["wrong_reflection_share"],
    "correct_ratio_in_reflection_texts": ["reflection_correct_share"],
    "correct_ratio_in_no_reflection_texts": ["no_reflection_correct_share"],
    "reflection_words": ["reflection_word"],
    "prompt_length": ["mean_prompt_length"],
    "test_*, val_*": ["evaluation"],
}  # fmt: skip
"""What V-Triune logs of each source (arXiv 2505.18129, section 3.3 and its code), and the metrics that stand for it."""

BEYOND_VTRIUNE = [
    "coverage", "solve_all_share", "solve_none_share", "mean_age", "score_seconds_p95", "num_timeout", "num_error",
    "threshold", "cost_seconds", "lag_records", "cpu_cores", "memory_bytes", "gpu_memory_bytes", "evaluation_coverage",
]  # fmt: skip


@pytest.mark.parametrize("names", [*OF_VTRIUNE.values(), BEYOND_VTRIUNE], ids=[*OF_VTRIUNE, "beyond"])
def test_the_registry_has_every_metric_of_vtriune_and_what_it_lacks(names: list[str]) -> None:
    assert all(find_metric(name).dashboards for name in names)


def test_each_metric_says_what_it_is() -> None:
    assert [name for name, number in Counter(metric.name for metric in ALL_METRICS).items() if number > 1] == []
    for metric in ALL_METRICS:
        assert re.fullmatch(r"[a-z][a-z0-9_]*", metric.name)
        assert metric.title
        assert metric.meaning.endswith(".")
        assert metric.page or metric.dashboards or metric.name == "verifier_metric", "it is shown nowhere"
        assert not metric.page or metric.per == ("source",)


@pytest.mark.parametrize("metric", ALL_METRICS, ids=lambda metric: metric.name)
@pytest.mark.usefixtures("example")
def test_the_sql_of_a_metric_runs_and_filters_by_run(metric: Metric, client: Client) -> None:
    result = client.query(metric.select("run = {run:String}"), {"run": "example"})
    assert tuple(result.column_names or ("time", *metric.per, "value")) == ("time", *metric.per, "value")
    times = [row[0] for row in result.result_rows]
    assert times == sorted(times)
    assert not client.query(metric.select("run = {run:String}"), {"run": "nobody's"}).result_rows


def test_metrics_of_the_page_are_columns_of_their_view(client: Client) -> None:
    columns = {
        view: {row[0] for row in client.query(f"DESCRIBE TABLE {view}").result_rows}
        for view in {metric.view for metric in SOURCE_METRICS}
    }
    assert [metric.name for metric in SOURCE_METRICS if metric.name not in columns[metric.view]] == []
    assert all(metric.expression == metric.name for metric in SOURCE_METRICS)


def test_the_page_draws_what_the_registry_says(client: Client, example: RunFile) -> None:
    curves = read_curves(client, example.run.id)
    assert [panel["key"] for panel in curves["panels"]["main"]] == [metric.name for metric in MAIN_METRICS]
    assert [panel["key"] for panel in curves["panels"]["more"]] == [metric.name for metric in MORE_METRICS]
    for panel in (*curves["panels"]["main"], *curves["panels"]["more"]):
        assert panel["meaning"] == find_metric(panel["key"]).meaning
        assert panel["percent"] == find_metric(panel["key"]).is_share
    assert [metric.name for metric in ALL_METRICS if metric.page] == [metric.name for metric in SOURCE_METRICS]


def test_the_document_has_each_metric_once_with_its_unit_and_where_it_is_shown() -> None:
    text = (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8")
    assert text == render_metrics(), "run: python -m tristream.monitoring.grafana"
    rows = [line.split(" | ") for line in text.splitlines() if line.startswith("| `")]
    assert [row[0].split("`")[1] for row in rows] == [metric.name for metric in ALL_METRICS]
    for row, metric in zip(rows, ALL_METRICS, strict=True):
        assert row[1] == metric.unit
        assert ("page" in row[-1]) is bool(metric.page)
        assert all(dashboard in row[-1] for dashboard in metric.dashboards)
    assert re.findall(r"^## (.+)$", text, flags=re.MULTILINE) == list(METRICS_BY_TOPIC)

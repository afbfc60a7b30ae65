"""The Grafana dashboards: up to date, well formed, and every query of them answers on a real ClickHouse engine."""

import json
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from box_rewards import describe_boxes
from grafana_macros import expand
from tristream.config.run_file import RunFile
from tristream.monitoring.grafana.files import build_dashboards, render_files
from tristream.monitoring.grafana.links import TAG
from tristream.monitoring.grafana.panels import NUM_COLUMNS, PLUGIN, PLUGIN_VERSION, Panel, Row, lay_out
from tristream.monitoring.grafana.variables import DATASOURCE_UID
from tristream.monitoring.metrics import ALL_METRICS
from tristream.monitoring.store.client import Client
from tristream.runtime.bus.memory import MemoryBus
from tristream.wire import events, topics

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "monitoring" / "grafana"
DASHBOARDS = build_dashboards()
PANELS = {
    f"{name}: {panel['title']}": panel
    for name, dashboard in DASHBOARDS.items()
    for panel in dashboard["panels"]
    if panel["type"] != "row"
}
RUN = "dashboards"
MINUTE_NS = 60 * 10**9

WriteRun = Callable[[str, Callable[[MemoryBus, Any, Callable[[], None]], None]], RunFile]


def publish_everything(bus: MemoryBus, recipe: Any, publish_example: Callable[[], None]) -> None:
    """The example, and one of each thing that dashboards show beside: measures, shadows, thresholds, commands."""
    recipe.reward_details = describe_boxes
    recipe.step_metrics = {
        "effective_sample_size": 0.9, "ratio_tail_share": 0.01, "max_ratio": 1.5, "skipped_updates": 0.0,
        "tokens_per_second": 500.0, "model_flops_utilisation": 0.3,
    }  # fmt: skip
    publish_example()
    durable = events.Ledger(step=3)
    weights = events.Weights(version=6, uri="weights/6/model.safetensors", sha256="0" * 64)
    bus.publish(
        topics.POLICY,
        events.PolicyVersion(
            run=bus.run, weights=weights, total_steps=6, durable=durable, created_ns=recipe.created_ns + 10**9
        ),
    )
    for number in range(2, 40, 4):
        group = recipe.group(number, "digits_sum")
        for index in range(group.size):
            shadow = recipe.reward(
                group, index, 1.0, term_id="math-strict", verifier="math-strict", mode=events.TermMode.SHADOW
            )
            bus.publish(topics.REWARDS, shadow)
    pause = recipe.command(
        id="c-2/from/20", kind=events.CommandKind.PAUSE_SOURCE, verifier="", version="", weights={},
        sources=("digits_sum",), from_number=20, reason="no truth is readable",
    )  # fmt: skip
    bus.publish(topics.COMMANDS, pause)
    for minute in range(3):
        measures = {"cpu_seconds": 30.0 * minute, "memory_bytes": 2e9, "gpu_memory_bytes": 4e10, "lag_rollouts": 7.0}
        created_ns = recipe.created_ns + minute * MINUTE_NS
        bus.publish(
            topics.PARTS,
            recipe.part(
                events.Part.MONITOR, "host-pages", address="http://host:8080/", measures=measures, created_ns=created_ns
            ),
        )


@pytest.fixture(scope="module")
def values(write_run: WriteRun) -> Mapping[str, Sequence[str]]:
    """The variables with everything chosen, of a run that has everything."""
    settings = write_run(RUN, publish_everything)
    return {
        "run": [RUN],
        "source": [source.name for source in settings.sources],
        "verifier": ["ocr", "counting", "math", "detection", "math-strict"],
        "version": ["1"],
        "at": [""],
    }


def query(client: Client, sql: str, values: Mapping[str, Sequence[str]]) -> tuple[list[str], list[Sequence[Any]]]:
    result = client.query(expand(sql, values))
    return list(result.column_names), list(result.result_rows)


def queries_of(panel: Mapping[str, Any]) -> list[str]:
    return [target["rawSql"] for target in panel["targets"]]


def all_queries() -> Iterator[Any]:
    any_dashboard = DASHBOARDS["run"]
    for variable in any_dashboard["templating"]["list"]:
        if variable["type"] == "query":
            yield pytest.param(variable["query"], id=f"variable {variable['name']}")
    for annotation in any_dashboard["annotations"]["list"]:
        yield pytest.param(annotation["target"]["rawSql"], id=f"annotation {annotation['name']}")
    for title, panel in PANELS.items():
        for target in panel["targets"]:
            yield pytest.param(target["rawSql"], id=f"panel {title} {target['refId']}")


@pytest.mark.parametrize("sql", list(all_queries()))
def test_every_query_has_rows_with_values(client: Client, values: Mapping[str, Sequence[str]], sql: str) -> None:
    columns, rows = query(client, sql, values)
    assert rows, "no rows"
    for column, cells in zip(columns, zip(*rows, strict=True), strict=True):
        known = [cell for cell in cells if cell is not None and not (isinstance(cell, float) and math.isnan(cell))]
        assert known, f"{column} has no value"


@pytest.mark.parametrize("title", [title for title, panel in PANELS.items() if panel["type"] == "timeseries"])
def test_a_time_series_is_sorted_by_time_and_has_one_point_a_curve_and_moment(
    client: Client, values: Mapping[str, Sequence[str]], title: str
) -> None:
    panel, all_columns = PANELS[title], set()
    for sql in queries_of(panel):
        columns, rows = query(client, sql, values)
        all_columns |= set(columns)
        assert columns[0] == "time"
        times = [row[0] for row in rows]
        assert times == sorted(times), "the plugin only turns sorted rows into curves"
        labels = [column for column, cell in zip(columns, rows[0], strict=True) if isinstance(cell, str)]
        points = [(row[0], *(row[columns.index(label)] for label in labels)) for row in rows]
        assert len(points) == len(set(points))
        chosen = labels if not title.startswith("source: ") else [label for label in labels if label != "source"]
        numbers = [column for column in columns[1:] if column not in labels]
        for column in numbers:
            assert re.findall(r"labels\.(\w+)", name_of_curve(panel, column)) == chosen, (
                "a curve is named by its labels"
            )
    overridden = {override["matcher"]["options"] for override in panel["fieldConfig"]["overrides"]}
    assert overridden <= all_columns


def name_of_curve(panel: Mapping[str, Any], column: str) -> str:
    """What the legend says of a column."""
    for override in panel["fieldConfig"]["overrides"]:
        for property_ in override["properties"]:
            if override["matcher"]["options"] == column and property_["id"] == "displayName":
                return str(property_["value"])
    return str(panel["fieldConfig"]["defaults"].get("displayName", ""))


def test_curves_follow_the_chosen_sources(client: Client, values: Mapping[str, Sequence[str]]) -> None:
    (sql,) = queries_of(PANELS["run: Reward"])
    for chosen in (["digits_sum"], ["digits_read", "digits_find"]):
        _, rows = query(client, sql, {**values, "source": chosen})
        assert {row[1] for row in rows} == set(chosen)
    assert query(client, sql, {**values, "run": ["of-nobody's"]})[1] == []


def test_panels_of_verifiers_follow_the_chosen_version(client: Client, values: Mapping[str, Sequence[str]]) -> None:
    (sql,) = queries_of(PANELS["pipeline: Rewards"])
    columns, rows = query(client, sql, {**values, "verifier": ["math-strict"]})
    assert {row[columns.index("verifier")] for row in rows} == {"math-strict"}
    assert query(client, sql, {**values, "version": ["2"]})[1] == []


def test_variables_list_the_newest_run_and_the_sources_in_order(
    client: Client, values: Mapping[str, Sequence[str]]
) -> None:
    queries = {variable["name"]: variable["query"] for variable in DASHBOARDS["run"]["templating"]["list"]}
    assert (RUN,) in [tuple(row) for row in query(client, queries["run"], values)[1]]
    assert [row[0] for row in query(client, queries["source"], values)[1]] == values["source"]
    assert {row[0] for row in query(client, queries["verifier"], values)[1]} == set(values["verifier"])
    assert query(client, queries["page"], values)[1] == [("http://host:8080/",)]


def test_the_fates_of_groups_add_up(client: Client, values: Mapping[str, Sequence[str]]) -> None:
    (sql,) = queries_of(PANELS["run: Fates of groups"])
    _, rows = query(client, sql, values)
    assert sum(row[2] for row in rows if row[1] == "trained") == 6 * 8
    dispatched = client.query(f"SELECT count() FROM prompts FINAL WHERE run = '{RUN}' AND split = 'train'")
    assert sum(row[2] for row in rows) == dispatched.result_rows[0][0]
    assert any(row[1] == "dropped: zero_variance" for row in rows)


def test_a_point_of_a_curve_leads_to_the_rollouts_of_its_step_and_they_to_the_live_page(
    client: Client, values: Mapping[str, Sequence[str]]
) -> None:
    (link,) = PANELS["source: Reward"]["fieldConfig"]["defaults"]["links"]
    assert "var-at=${__value.time}" in link["url"]
    assert link["url"].startswith("/d/tristream-source?")
    (of_reward, _) = queries_of(PANELS["source: Reward"])
    _, points = query(client, of_reward, {**values, "source": ["digits_sum"]})
    panel = PANELS["source: Rollouts of a step"]
    found = []
    for created, *_ in points:
        at = [str(round(created.timestamp() * 1000))]
        columns, rows = query(client, queries_of(panel)[0], {**values, "source": ["digits_sum"], "at": at})
        found.append({row[columns.index("step")] for row in rows})
    trained = client.query(f"SELECT DISTINCT step FROM source_steps WHERE run = '{RUN}' AND source = 'digits_sum'")
    assert [step for steps in found for step in steps] == sorted(row[0] for row in trained.result_rows)
    (to_page,) = panel["fieldConfig"]["defaults"]["links"]
    assert to_page["url"] == "${page:raw}#rollout=train/0/0/${__data.fields.number}/${__data.fields.rollout_index}"
    assert {"number", "rollout_index"} <= set(columns)


def test_examples_are_the_best_answer_with_reflection_and_the_best_without(
    client: Client, values: Mapping[str, Sequence[str]]
) -> None:
    (sql,) = queries_of(PANELS["source: Answers with and without reflection"])
    columns, rows = query(client, sql, {**values, "source": ["digits_sum", "digits_read"]})
    found = {row[columns.index("reflects")]: row for row in rows}
    assert set(found) == {"yes", "no"}
    assert "Wait" in found["yes"][columns.index("answer")]
    assert "Wait" not in found["no"][columns.index("answer")]


def test_a_click_on_a_run_shows_the_time_range_in_which_it_happened(
    client: Client, values: Mapping[str, Sequence[str]]
) -> None:
    panel = PANELS["run: Runs"]
    (link,) = panel["fieldConfig"]["defaults"]["links"]
    assert "var-run=${__data.fields.run:percentencode}" in link["url"]
    assert "&from=${__data.fields.from_ms}&to=${__data.fields.to_ms}" in link["url"]
    columns, rows = query(client, queries_of(panel)[0], values)
    row = dict(zip(columns, next(row for row in rows if row[0] == RUN), strict=True))
    last = client.query(f"SELECT max(created) FROM steps WHERE run = '{RUN}'").result_rows[0][0].timestamp() * 1000
    assert row["from_ms"] < last < row["to_ms"]
    assert row["step"] == row["total_steps"] == 6


def test_annotations_mark_versions_checkpoints_threshold_steps_promotions_and_commands(
    client: Client, values: Mapping[str, Sequence[str]]
) -> None:
    texts = {
        annotation["name"]: [row[1] for row in query(client, annotation["target"]["rawSql"], values)[1]]
        for annotation in DASHBOARDS["source"]["annotations"]["list"]
    }
    assert texts["Policy versions"] == [f"policy version {version}" for version in range(7)]
    assert texts["Checkpoints"] == ["checkpoint of step 3"]
    assert texts["Threshold steps"][-1].endswith(" judges at 0.95, before at 0.85") or len(texts["Threshold steps"]) > 1
    assert all(text.startswith("digits_find: detection@1 judges at ") for text in texts["Threshold steps"])
    assert texts["Promotions"] == ["add math-strict@1"]
    assert texts["Commands"] == ["pause digits_sum: no truth is readable"]


def test_the_committed_files_are_up_to_date() -> None:
    for name, text in render_files().items():
        assert (ROOT / name).read_text(encoding="utf-8") == text, "run: python -m tristream.monitoring.grafana"
    made = {path.rpartition("/")[2] for path in render_files() if "dashboards" in path}
    assert {path.name for path in (FOLDER / "dashboards").iterdir()} == made


@pytest.mark.parametrize("name", list(DASHBOARDS))
def test_panels_do_not_overlap_and_say_what_they_show(name: str) -> None:
    taken: set[tuple[int, int]] = set()
    dashboard = DASHBOARDS[name]
    for panel in dashboard["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert place["x"] + place["w"] <= NUM_COLUMNS
        assert not cells & taken
        taken |= cells
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])
    panels = [panel for panel in dashboard["panels"] if panel["type"] != "row"]
    assert len({panel["title"] for panel in panels}) == len(panels)
    assert all(panel["description"].endswith(".") for panel in panels)
    assert all(panel["datasource"] == {"type": PLUGIN, "uid": "${datasource}"} for panel in panels)


@pytest.mark.parametrize("name", list(DASHBOARDS))
def test_a_dashboard_has_its_variables_annotations_and_ways_to_the_others(name: str) -> None:
    dashboard = DASHBOARDS[name]
    names = [variable["name"] for variable in dashboard["templating"]["list"]]
    assert names[:6] == ["datasource", "run", "source", "verifier", "version", "page"]
    assert dashboard["tags"] == [TAG]
    assert dashboard["links"][0] == {**dashboard["links"][0], "tags": [TAG], "includeVars": True, "keepTime": True}
    text = json.dumps(dashboard)
    assert set(re.findall(r"\$\{(\w+):\w+\}", text)) <= set(names), "a variable that the dashboard lacks"
    targets = [
        *(target for panel in dashboard["panels"] for target in panel.get("targets", ())),
        *(annotation["target"] for annotation in dashboard["annotations"]["list"]),
    ]
    form = {"pluginVersion": PLUGIN_VERSION, "editorType": "sql", "meta": {}}
    assert all(target == {**target, **form} for target in targets)
    assert {target["queryType"] for target in targets} <= {"timeseries", "table"}


def test_the_dashboard_of_sources_repeats_its_row_for_each_source() -> None:
    (row,) = [panel for panel in DASHBOARDS["source"]["panels"] if panel["type"] == "row"]
    assert (row["repeat"], row["title"], row["collapsed"]) == ("source", "$source", False)
    assert all("source IN (${source:sqlstring})" in sql for title, panel in PANELS.items()
               if title.startswith("source: ") for sql in queries_of(panel))  # fmt: skip


@pytest.mark.parametrize("metric", ALL_METRICS, ids=lambda metric: metric.name)
def test_a_metric_is_on_the_dashboards_that_the_registry_says(metric: Any) -> None:
    def is_asked(panel: Mapping[str, Any]) -> bool:
        asked = (f"FROM {metric.table or metric.view}", metric.expression, metric.where)
        return any(all(part in sql for part in asked) for sql in queries_of(panel))

    shown = {title.partition(":")[0] for title, panel in PANELS.items() if is_asked(panel)}
    assert set(metric.dashboards) <= shown


def test_a_panel_that_does_not_fit_starts_a_new_line() -> None:
    wide = Panel(title="wide", description="", sql="", width=16, height=3)
    heading, first, second = lay_out([Row(title="row", panels=[wide, wide])])
    assert [item["gridPos"]["y"] for item in (heading, first, second)] == [0, 1, 4]


def test_the_provisioning_names_the_plugin_and_the_uid_of_the_dashboards() -> None:
    text = (FOLDER / "provisioning" / "datasources" / "tristream.yaml").read_text(encoding="utf-8")
    source = yaml.safe_load(text)["datasources"][0]
    assert (source["type"], source["uid"]) == (PLUGIN, DATASOURCE_UID)
    assert source["jsonData"].pop("version") == PLUGIN_VERSION
    addresses = {**source["jsonData"], **source["secureJsonData"]}
    assert all(value.startswith("$CLICKHOUSE_") for value in addresses.values())
    chosen = DASHBOARDS["run"]["templating"]["list"][0]
    assert (chosen["query"], chosen["current"]["value"]) == (PLUGIN, DATASOURCE_UID)


def test_the_provider_reads_a_folder_of_dashboards() -> None:
    text = (FOLDER / "provisioning" / "dashboards" / "tristream.yaml").read_text(encoding="utf-8")
    provider = yaml.safe_load(text)["providers"][0]
    assert provider["type"] == "file"
    assert provider["options"]["path"] == "$TRISTREAM_DASHBOARDS"
    assert all(json.loads(path.read_text(encoding="utf-8"))["uid"] for path in (FOLDER / "dashboards").glob("*.json"))


@pytest.mark.usefixtures("example")
def test_the_query_of_the_readme_answers(client: Client) -> None:
    text = (FOLDER.parent / "README.md").read_text(encoding="utf-8")
    sql = re.findall(r"```sql\n(.+?)```", text, flags=re.DOTALL)[0].replace("'digits'", "'example'")
    result = client.query(sql)
    assert {row[0] for row in result.result_rows} == {"digits_read", "digits_count", "digits_sum", "digits_find"}
    assert all(row[4] is not None and row[5] > 0 for row in result.result_rows)

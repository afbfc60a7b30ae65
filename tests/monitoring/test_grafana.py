"""The Grafana dashboard: up to date, well formed, and every query of it answers on a real ClickHouse engine."""

import json
import math
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from tristream.config.run_file import RunFile
from tristream.monitoring.grafana.__main__ import render_overview
from tristream.monitoring.grafana.overview import DATASOURCE_UID, build_overview
from tristream.monitoring.grafana.panels import NUM_COLUMNS, PLUGIN, Panel, Row, lay_out
from tristream.monitoring.store.client import Client

FOLDER = Path(__file__).parents[2] / "monitoring" / "grafana"
DASHBOARD = build_overview()
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
FROM_SECONDS, TO_SECONDS = 1_600_000_000, 4_000_000_000
INTERVAL_SECONDS = 10.0


def expand(sql: str, values: dict[str, Sequence[str]]) -> str:
    """Grafana's ``${name:sqlstring}``, then the macros of the ClickHouse plugin (its ``pkg/macros/macros.go``)."""

    def quote(match: re.Match[str]) -> str:
        return ",".join("'" + value.replace("'", "''") + "'" for value in values[match[1]])

    interval_seconds = int(max(INTERVAL_SECONDS, 1))
    sql = re.sub(r"\$\{(\w+):sqlstring\}", quote, sql)
    sql = re.sub(
        r"\$__timeFilter\((\w+)\)", rf"\1 >= toDateTime({FROM_SECONDS}) AND \1 <= toDateTime({TO_SECONDS})", sql
    )
    sql = re.sub(
        r"\$__timeInterval\((\w+)\)", rf"toStartOfInterval(toDateTime(\1), INTERVAL {interval_seconds} second)", sql
    )
    sql = sql.replace("$__interval_s", str(interval_seconds))
    assert "$" not in sql, "a macro or a variable is unknown"
    return sql


def query(client: Client, sql: str, values: dict[str, Sequence[str]]) -> tuple[list[str], list[Sequence[Any]]]:
    result = client.query(expand(sql, values))
    return list(result.column_names), list(result.result_rows)


@pytest.fixture
def values(example: RunFile) -> dict[str, Sequence[str]]:
    """The variables with all sources chosen."""
    return {"run": [example.run.id], "source": [source.name for source in example.sources]}


def all_queries() -> Iterator[Any]:
    for variable in DASHBOARD["templating"]["list"]:
        if variable["type"] == "query":
            yield pytest.param(variable["query"], id=f"variable {variable['name']}")
    for annotation in DASHBOARD["annotations"]["list"]:
        yield pytest.param(annotation["target"]["rawSql"], id=f"annotation {annotation['name']}")
    for panel in PANELS:
        for target in panel["targets"]:
            yield pytest.param(target["rawSql"], id=f"panel {panel['title']}")


@pytest.mark.parametrize("sql", list(all_queries()))
def test_every_query_has_rows_with_values(client: Client, values: dict[str, Sequence[str]], sql: str) -> None:
    columns, rows = query(client, sql, values)
    assert rows, "no rows"
    for column, cells in zip(columns, zip(*rows, strict=True), strict=True):
        known = [cell for cell in cells if cell is not None and not (isinstance(cell, float) and math.isnan(cell))]
        assert known, f"{column} has no value"


@pytest.mark.parametrize(
    "panel", [panel for panel in PANELS if panel["type"] == "timeseries"], ids=lambda p: p["title"]
)
def test_a_time_series_is_sorted_by_time_and_has_one_point_a_curve_and_moment(
    client: Client, values: dict[str, Sequence[str]], panel: dict[str, Any]
) -> None:
    columns, rows = query(client, panel["targets"][0]["rawSql"], values)
    assert columns[0] == "time"
    times = [row[0] for row in rows]
    assert times == sorted(times), "the plugin only turns sorted rows into curves"
    labels = [column for column, cell in zip(columns, rows[0], strict=True) if isinstance(cell, str)]
    points = [(row[0], *(row[columns.index(label)] for label in labels)) for row in rows]
    assert len(points) == len(set(points))
    name = panel["fieldConfig"]["defaults"].get("displayName", "")
    assert re.findall(r"labels\.(\w+)", name) == labels, "a curve is named by its labels"
    overridden = {override["matcher"]["options"] for override in panel["fieldConfig"]["overrides"]}
    assert overridden <= set(columns)


def test_curves_follow_the_chosen_sources(client: Client, values: dict[str, Sequence[str]]) -> None:
    reward = next(panel for panel in PANELS if panel["title"] == "Reward")
    sql = reward["targets"][0]["rawSql"]
    for chosen in (["digits_sum"], ["digits_read", "digits_find"]):
        _, rows = query(client, sql, {**values, "source": chosen})
        assert {row[1] for row in rows} == set(chosen)
    assert query(client, sql, {**values, "run": ["of-nobody's"]})[1] == []


def test_variables_list_the_newest_run_and_the_sources_in_order(
    client: Client, values: dict[str, Sequence[str]]
) -> None:
    queries = {variable["name"]: variable["query"] for variable in DASHBOARD["templating"]["list"]}
    assert ("example",) in [tuple(row) for row in query(client, queries["run"], values)[1]]
    assert [row[0] for row in query(client, queries["source"], values)[1]] == values["source"]


def test_the_fates_of_groups_add_up(client: Client, values: dict[str, Sequence[str]]) -> None:
    fates = next(panel for panel in PANELS if panel["title"] == "Fates of groups")
    _, rows = query(client, fates["targets"][0]["rawSql"], values)
    trained = sum(row[2] for row in rows if row[1] == "trained")
    assert trained == 6 * 8
    dispatched = client.query("SELECT count() FROM prompts FINAL WHERE run = 'example' AND split = 'train'")
    assert sum(row[2] for row in rows) == dispatched.result_rows[0][0]
    assert any(row[1] == "dropped: zero_variance" for row in rows)


def test_the_committed_dashboard_is_up_to_date() -> None:
    path = FOLDER / "dashboards" / "overview.json"
    remedy = "run: python -m tristream.monitoring.grafana monitoring/grafana/dashboards"
    assert path.read_text(encoding="utf-8") == render_overview(), remedy


def test_panels_do_not_overlap_and_say_what_they_show() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert place["x"] + place["w"] <= NUM_COLUMNS
        assert not cells & taken
        taken |= cells
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])
    assert len({panel["title"] for panel in PANELS}) == len(PANELS)
    assert all(panel["description"].endswith(".") for panel in PANELS)
    assert all(panel["datasource"] == {"type": PLUGIN, "uid": "${datasource}"} for panel in PANELS)


def test_a_panel_that_does_not_fit_starts_a_new_line() -> None:
    wide = Panel(title="wide", description="", sql="", width=16, height=3)
    heading, first, second = lay_out([Row(title="row", panels=[wide, wide])])
    assert [item["gridPos"]["y"] for item in (heading, first, second)] == [0, 1, 4]


def test_the_provisioning_names_the_plugin_and_the_uid_of_the_dashboard() -> None:
    text = (FOLDER / "provisioning" / "datasources" / "tristream.yaml").read_text(encoding="utf-8")
    source = yaml.safe_load(text)["datasources"][0]
    assert (source["type"], source["uid"]) == (PLUGIN, DATASOURCE_UID)
    addresses = {**source["jsonData"], **source["secureJsonData"]}
    assert all(value.startswith("$CLICKHOUSE_") for value in addresses.values())
    chosen = DASHBOARD["templating"]["list"][0]
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

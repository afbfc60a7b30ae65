"""Variables of a dashboard: what its reader chooses at the top of the page."""

from tristream.monitoring.grafana.panels import DATASOURCE, PLUGIN, Json

DATASOURCE_UID = "tristream-clickhouse"
"""Uid of the data source of tristream, which dashboards pick first."""

RUN = "run = ${run:sqlstring}"
SOURCES = f"{RUN} AND source IN (${{source:sqlstring}})"
VERIFIERS = "verifier IN (${verifier:sqlstring}) AND version IN (${version:sqlstring})"

_REFRESH_ON_TIME_RANGE_CHANGE = 2


def datasource_variable(name: str, label: str, *, uid: str) -> Json:
    """A choice among the ClickHouse data sources, ``uid`` first."""
    current = {"text": uid, "value": uid}
    return {"name": name, "label": label, "type": "datasource", "query": PLUGIN, "current": current}


def query_variable(name: str, label: str, sql: str, *, is_multiple: bool = False) -> Json:
    """A choice among the rows of a query, in its order; of several, all are chosen first."""
    variable: Json = {
        "name": name,
        "label": label,
        "type": "query",
        "datasource": DATASOURCE,
        "definition": sql,
        "query": sql,
        "refresh": _REFRESH_ON_TIME_RANGE_CHANGE,
        "sort": 0,
    }
    if is_multiple:
        variable |= {"multi": True, "includeAll": True, "current": {"text": ["All"], "value": ["$__all"]}}
    return variable


def text_variable(name: str, label: str) -> Json:
    """A text, empty at first."""
    return {"name": name, "label": label, "type": "textbox", "query": "", "current": {"text": "", "value": ""}}


def all_variables() -> list[Json]:
    """The variables of each dashboard: data source, run, source, verifier, its version, and where the live page is."""
    return [
        datasource_variable("datasource", "ClickHouse", uid=DATASOURCE_UID),
        query_variable("run", "Run", "SELECT run FROM sources GROUP BY run ORDER BY max(created) DESC"),
        query_variable(
            "source", "Source", f"SELECT source FROM sources FINAL WHERE {RUN} ORDER BY position", is_multiple=True
        ),
        query_variable(
            "verifier", "Verifier", f"SELECT DISTINCT verifier FROM verifier_scores WHERE {RUN} ORDER BY verifier",
            is_multiple=True,
        ),
        query_variable(
            "version", "Version",
            f"SELECT DISTINCT version FROM verifier_scores WHERE {RUN} AND verifier IN (${{verifier:sqlstring}})"
            " ORDER BY version",
            is_multiple=True,
        ),
        query_variable(
            "page", "Live page",
            f"SELECT address FROM part_states WHERE {RUN} AND part = 'monitor' AND address != '' ORDER BY created DESC"
            " LIMIT 1",
        ),
    ]  # fmt: skip

"""Variables of a dashboard: what its reader chooses at the top of the page."""

from tristream.monitoring.grafana.panels import DATASOURCE, PLUGIN, Json

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

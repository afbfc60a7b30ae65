"""What Grafana is to have: one folder with dashboards and alert rules, and the data source that they ask."""

from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

from tristream.monitoring.grafana.alert_form import FOLDER, GROUP, INTERVAL_SECONDS, build_rules
from tristream.monitoring.grafana.files import build_dashboards
from tristream.monitoring.grafana.panels import PLUGIN, PLUGIN_VERSION, Json
from tristream.monitoring.grafana.variables import DATASOURCE_UID
from tristream.runtime.errors import UserError


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """All of it, as Grafana's API takes it."""

    folder: Json
    datasource: Json | None
    """None leaves the one that is there as it is."""
    password: str
    """Of the data source; Grafana never tells the one it has."""
    dashboards: dict[str, Json]
    rule_group: Json


def build_wanted(clickhouse_url: str, documents: str) -> Wanted:
    """What this version of tristream has to offer.

    Args:
        clickhouse_url: the database as Grafana reaches it, such as ``http://reader:password@clickhouse:8123/tristream``;
            empty leaves the data source that is there as it is.
        documents: address of the folder with the runbook ``alerts.md``.

    Raises:
        UserError: the address of the database is none.
    """
    datasource, password = _datasource(clickhouse_url) if clickhouse_url else (None, "")
    return Wanted(
        folder={"uid": FOLDER, "title": FOLDER},
        datasource=datasource,
        password=password,
        dashboards=build_dashboards(),
        rule_group={
            "title": GROUP,
            "folderUid": FOLDER,
            "interval": INTERVAL_SECONDS,
            "rules": [{**rule, "folderUID": FOLDER, "ruleGroup": GROUP, "orgID": 1} for rule in build_rules(documents)],
        },
    )


def _datasource(url: str) -> tuple[Json, str]:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise UserError(
            f"'{parts.scheme}://{parts.hostname or ''}{parts.path}' is not an address of ClickHouse",
            where="--clickhouse",
            remedy="write it as http://reader:password@host:8123/database, as Grafana reaches it",
        )
    is_secure = parts.scheme == "https"
    values = {
        "version": PLUGIN_VERSION,
        "host": parts.hostname,
        "port": parts.port or (8443 if is_secure else 8123),
        "protocol": "http",
        "secure": is_secure,
        "username": unquote(parts.username or "default"),
        "defaultDatabase": parts.path.strip("/") or "tristream",
    }
    datasource = {"uid": DATASOURCE_UID, "name": "tristream", "type": PLUGIN, "access": "proxy", "jsonData": values}
    return datasource, unquote(parts.password or "")

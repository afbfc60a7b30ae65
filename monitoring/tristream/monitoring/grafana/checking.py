"""Whether Grafana can show anything: the health of its data source in words, and the runs that it finds there."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tristream.monitoring.grafana.connection import find, in_one_line
from tristream.monitoring.grafana.panels import PLUGIN, make_target
from tristream.monitoring.grafana.variables import DATASOURCE_UID

_RUNS = """SELECT s.run AS run, t.step AS step, t.total_steps AS total_steps,
    dateDiff('second', t.last_step, now()) AS seconds_since
FROM (SELECT run, max(created) AS began FROM sources GROUP BY run) AS s
LEFT JOIN (
    SELECT run, max(step) AS step, max(total_steps) AS total_steps, max(created) AS last_step FROM steps GROUP BY run
) AS t ON t.run = s.run
ORDER BY s.began DESC LIMIT 20"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """How the data source is."""

    works: bool
    words: str
    """What is wrong and what to do, or that it works."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ShownRun:
    """A run that Grafana finds in the database."""

    run: str
    step: int
    total_steps: int
    seconds_since: int | None
    """Since the newest step; None without any."""


def check_health(api: Any) -> Health:  # noqa: ANN401 - GrafanaApi
    """Ask Grafana to ask the database.

    Raises:
        UserError: the token is refused.
        TryAgainError: Grafana does not answer.
    """
    from grafana_client.client import GrafanaBadInputError, GrafanaServerError

    with in_one_line("reading the data source"):
        found = find(api.datasource.get_datasource_by_uid, DATASOURCE_UID)
    if found is None:
        return Health(works=False, words="is not there: `tristream grafana push --clickhouse URL` makes it")
    with in_one_line("asking for the health of the data source"):
        try:
            answer = find(api.datasource.health, DATASOURCE_UID)
        except (GrafanaBadInputError, GrafanaServerError) as error:
            answer = error.response if isinstance(error.response, dict) else {"message": str(error)}
    if answer is None:
        return Health(works=False, words=f"has no plugin: install {PLUGIN} in Grafana and restart it")
    message = " ".join(str(answer.get("message", "")).split()) or "no reason is given"
    if answer.get("status") == "OK":
        return Health(works=True, words=f"works ({message})")
    return Health(works=False, words=f"does not work ({message}): {_remedy(message)}")


def _remedy(message: str) -> str:
    text = message.lower()
    if "plugin" in text:
        return f"install {PLUGIN} in Grafana and restart it"
    if "authentication" in text or "password" in text or "user" in text:
        return "push again with the right user and password in --clickhouse, and --password"
    if "database" in text and "exist" in text:
        return "the database is made when the first run starts its monitor; or name another in --clickhouse"
    if any(word in text for word in ("refused", "no such host", "timeout", "deadline", "lookup", "unreachable")):
        return "give --clickhouse the address as Grafana's own machine reaches it"
    return "see the log of Grafana"


def find_runs(api: Any) -> Sequence[ShownRun]:  # noqa: ANN401 - GrafanaApi
    """The newest runs in the database, as Grafana's data source gives them.

    Raises:
        UserError: the query is refused, such as when the tables are not there.
        TryAgainError: Grafana does not answer.
    """
    query = make_target(_RUNS, is_time_series=False) | {"datasource": {"type": PLUGIN, "uid": DATASOURCE_UID}}
    with in_one_line("asking for the runs"):
        answer = api.client.POST("/ds/query", json={"queries": [query], "from": "now-1h", "to": "now"})
    frames = answer["results"]["A"].get("frames", ())
    rows = [row for frame in frames for row in zip(*frame["data"]["values"], strict=True)]
    return [
        ShownRun(
            run=run, step=int(step or 0), total_steps=int(total or 0), seconds_since=_whole(seconds) if step else None
        )
        for run, step, total, seconds in rows
    ]


def _whole(value: float | None) -> int | None:
    return None if value is None else int(value)

"""Bringing Grafana to what is wanted: what is there already is not written, so a second push changes nothing."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from tristream.monitoring.grafana.alert_form import FOLDER
from tristream.monitoring.grafana.connection import find, in_one_line
from tristream.monitoring.grafana.differences import find_differences
from tristream.monitoring.grafana.panels import Json
from tristream.monitoring.grafana.wanted import Wanted
from tristream.runtime.errors import UserError


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One thing that Grafana is to have, and how what it has differs."""

    name: str
    """In words, such as ``dashboard tristream run``."""
    is_new: bool
    differences: tuple[str, ...] = ()
    write: Callable[[], object] = field(repr=False)

    @property
    def is_needed(self) -> bool:
        """Whether something is to be written."""
        return self.is_new or bool(self.differences)


def plan(api: Any, wanted: Wanted, *, writes_password: bool = False) -> Iterator[Change]:  # noqa: ANN401 - GrafanaApi
    """Compare what is wanted with what is there, thing by thing and in the order in which they need each other.

    Args:
        api: of grafana-client.
        wanted: what Grafana is to have.
        writes_password: write the password of the data source even if nothing else of it differs; Grafana does not
            tell which one it has.

    Raises:
        UserError: Grafana refuses a question, or there is no data source and none is wanted.
        TryAgainError: Grafana does not answer.
    """
    with in_one_line("reading the folder"):
        folder = find(api.folder.get_folder, FOLDER)
    yield _folder(api, wanted, folder)
    with in_one_line("reading the data source"):
        yield from _datasource(api, wanted, writes_password)
    for dashboard in wanted.dashboards.values():
        with in_one_line(f"reading dashboard {dashboard['title']}"):
            found = find(api.dashboard.get_dashboard, dashboard["uid"])
        yield _dashboard(api, dashboard, found)
    with in_one_line("reading the alert rules"):
        group = find(api.alertingprovisioning.get_rule_group, FOLDER, wanted.rule_group["title"])
    yield _rules(api, wanted, group)


def _folder(api: Any, wanted: Wanted, found: Json | None) -> Change:  # noqa: ANN401 - GrafanaApi
    title = wanted.folder["title"]
    write = (
        (lambda: api.folder.create_folder(title, uid=FOLDER))
        if found is None
        else (lambda: api.folder.update_folder(FOLDER, title=title, overwrite=True))
    )
    return _change(f"folder {title}", wanted.folder, found, write)


def _datasource(api: Any, wanted: Wanted, writes_password: bool) -> Iterator[Change]:  # noqa: ANN401 - GrafanaApi
    from tristream.monitoring.grafana.variables import DATASOURCE_UID

    found = find(api.datasource.get_datasource_by_uid, DATASOURCE_UID)
    if wanted.datasource is None:
        if found is None:
            raise UserError(
                "there is no data source yet",
                where="--clickhouse",
                remedy="give the database as Grafana reaches it, such as http://reader:password@clickhouse:8123/tristream",
            )
        return
    has_password = bool(found and (found.get("secureJsonFields") or {}).get("password"))
    sends_password = bool(wanted.password) and (writes_password or not has_password)
    body = (
        {**wanted.datasource, "secureJsonData": {"password": wanted.password}} if wanted.password else wanted.datasource
    )
    if found is None:
        yield Change(name="data source tristream", is_new=True, write=lambda: api.datasource.create_datasource(body))
        return
    differences = tuple(find_differences(wanted.datasource, found))
    if sends_password:
        differences += ("password: set",)
    yield Change(
        name="data source tristream",
        is_new=False,
        differences=differences,
        write=lambda: api.datasource.update_datasource_by_uid(DATASOURCE_UID, {**found, **body}),
    )


def _dashboard(api: Any, wanted: Json, found: Json | None) -> Change:  # noqa: ANN401 - GrafanaApi
    def write() -> None:
        api.dashboard.update_dashboard(
            {"dashboard": wanted, "folderUid": FOLDER, "overwrite": True, "message": "tristream grafana push"}
        )

    change = _change(f"dashboard {wanted['title']}", wanted, found and found["dashboard"], write)
    folder = found["meta"].get("folderUid", "") if found else FOLDER
    if folder == FOLDER:
        return change
    moved = (*change.differences, f"folder: {folder or 'none'!r} -> {FOLDER!r}")
    return Change(name=change.name, is_new=False, differences=moved, write=write)


def _rules(api: Any, wanted: Wanted, found: Json | None) -> Change:  # noqa: ANN401 - GrafanaApi
    title = wanted.rule_group["title"]
    return _change(
        f"alert rules {title}",
        _by_uid(wanted.rule_group),
        found and _by_uid(found),
        lambda: api.alertingprovisioning.update_rule_group(FOLDER, title, wanted.rule_group),
    )


def _by_uid(group: Json) -> Json:
    """Rules by their uid, so that a difference names the rule."""
    rules = {rule["uid"]: {key: value for key, value in rule.items() if key != "orgID"} for rule in group["rules"]}
    return {"interval": group.get("interval"), "rules": rules, "uids": sorted(rules)}


def _change(name: str, wanted: Json, found: Json | None, write: Callable[[], object]) -> Change:
    if found is None:
        return Change(name=name, is_new=True, write=write)
    return Change(name=name, is_new=False, differences=tuple(find_differences(wanted, found)), write=write)


def push(api: Any, wanted: Wanted, *, writes_password: bool = False) -> Iterator[Change]:  # noqa: ANN401 - GrafanaApi
    """Write what differs; gives each thing after it is done, whether anything was to do or not.

    Raises:
        UserError: Grafana refuses something; what came before it is written.
        TryAgainError: Grafana does not answer.
    """
    for change in plan(api, wanted, writes_password=writes_password):
        if change.is_needed:
            with in_one_line(f"writing {change.name}"):
                change.write()
        yield change

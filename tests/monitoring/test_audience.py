"""Who counts as somebody who looks, and for how long."""

import http.client
import urllib.request
from pathlib import Path

import pytest

from tristream.config.monitoring import MonitoringSection
from tristream.config.parts import MonitorSettings
from tristream.config.run_file import RunFile
from tristream.monitoring.audience import LOOKS_SECONDS, Audience
from tristream.monitoring.http_queries.server import serve_queries
from tristream.monitoring.page.server import serve_page
from tristream.monitoring.store.client import Client
from tristream.runtime.run_folder import RunFolder


def test_who_asked_a_moment_ago_looks_and_who_stopped_asking_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    audience = Audience()
    assert not audience.is_there
    audience.note()
    now = LOOKS_SECONDS - 1.0
    assert audience.is_there
    now = LOOKS_SECONDS + 1.0
    assert not audience.is_there


@pytest.mark.parametrize(
    ("path", "is_look"),
    [
        ("", True),
        ("api/head", True),
        ("api/curves", True),
        ("api/rollouts?limit=1", True),
        ("healthz", False),
        ("api/sources", False),
        ("api/evaluation", False),
    ],
)
def test_people_at_the_page_look_and_probes_do_not(
    client: Client, example: RunFile, monkeypatch: pytest.MonkeyPatch, path: str, is_look: bool
) -> None:
    monkeypatch.setattr(client, "close", lambda: None)  # the engine is the whole test session's
    looks: list[None] = []
    page = serve_page(MonitorSettings.of(example), client, on_look=lambda: looks.append(None))
    with urllib.request.urlopen(page.url + path, timeout=30):
        pass
    page.stop()
    assert bool(looks) is is_look


def test_a_query_by_others_is_a_look_and_a_ping_or_a_stranger_is_none(client: Client, tmp_path: Path) -> None:
    folder, looks = RunFolder(tmp_path / "example"), list[None]()
    folder.path.mkdir()
    folder.clickhouse.symlink_to(client.path)  # type: ignore[attr-defined]
    queries = serve_queries(MonitoringSection(http_host="0.0.0.0"), folder, "example", lambda: looks.append(None))

    def ask(target: str, token: str = "") -> int:
        connection = http.client.HTTPConnection("127.0.0.1", queries.port, timeout=30)
        connection.request("GET", target, headers={"X-ClickHouse-User": "reader", "X-ClickHouse-Key": token})
        status = connection.getresponse().status
        connection.close()
        return status

    assert (ask("/ping"), ask("/?query=SELECT+1", token="guessed"), looks) == (200, 403, [])
    assert (ask("/?query=SELECT+1", token=folder.query_token.read_text()), len(looks)) == (200, 1)
    queries.stop()

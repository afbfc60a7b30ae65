"""``tristream grafana``: a push writes what differs and nothing else, diff tells it, check says what works, in words.

The contract is tested on a server that keeps and records what it is asked, and on a real Grafana where GRAFANA_URL,
GRAFANA_TOKEN and CLICKHOUSE_URL are set.
"""

import copy
import os
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from typer.testing import CliRunner, Result

from recorded_grafana import TOKEN, Grafana, serve_grafana
from tristream.cli.main import app
from tristream.monitoring.grafana.alerts import ALERTS
from tristream.monitoring.grafana.differences import find_differences
from tristream.monitoring.grafana.links import PIPELINE_UID, RUN_UID, SOURCE_UID
from tristream.monitoring.grafana.variables import DATASOURCE_UID
from tristream.runtime.errors import TryAgainError, UserError

pytest.importorskip("grafana_client", reason="the extra [ops] is not installed")

CLICKHOUSE = "http://reader:secret@clickhouse:8123/tristream"


@dataclass(frozen=True)
class Target:
    url: str
    token: str
    clickhouse: str


@pytest.fixture
def grafana() -> Iterator[Grafana]:
    with serve_grafana() as served:
        yield served


@pytest.fixture(params=["recorded", "real"])
def target(request: pytest.FixtureRequest) -> Target:
    if request.param == "recorded":
        return Target(request.getfixturevalue("grafana").url, TOKEN, CLICKHOUSE)
    if "GRAFANA_URL" not in os.environ:
        pytest.skip("GRAFANA_URL names no Grafana")
    return Target(os.environ["GRAFANA_URL"], os.environ["GRAFANA_TOKEN"], os.environ["CLICKHOUSE_URL"])


def run(grafana: Grafana | Target, *words: str, token: str = TOKEN) -> Result:
    """The command as a user types it; what it raises is raised."""
    result = CliRunner().invoke(app, ["grafana", *words, "--url", grafana.url, "--token", token])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def test_a_second_push_changes_nothing_and_says_so(target: Target) -> None:
    words = ("--clickhouse", target.clickhouse, "--docs", "https://docs.example.org")
    run(target, "push", *words, token=target.token)
    assert run(target, "diff", *words, token=target.token).output == "nothing to change\n"
    second = run(target, "push", *words, token=target.token)
    assert "nothing to change" in second.output
    assert "made" not in second.output
    assert "changed" not in second.output


def test_the_first_push_writes_everything_and_the_second_sends_no_write(grafana: Grafana) -> None:
    first = run(grafana, "push", "--clickhouse", CLICKHOUSE)
    assert first.exit_code == 0
    assert first.output.count(": made") == 6
    assert set(grafana.dashboards) == {RUN_UID, SOURCE_UID, PIPELINE_UID}
    (group,) = grafana.rule_groups.values()
    assert [rule["uid"] for rule in group["rules"]] == [alert.uid for alert in ALERTS]
    assert grafana.datasources[DATASOURCE_UID]["jsonData"] == {
        "version": "4.20.0", "host": "clickhouse", "port": 8123, "protocol": "http", "secure": False,
        "username": "reader", "defaultDatabase": "tristream",
    }  # fmt: skip
    assert grafana.passwords == {DATASOURCE_UID: "secret"}
    assert len(grafana.writes) == 6
    grafana.requests.clear()
    second = run(grafana, "push", "--clickhouse", CLICKHOUSE)
    assert second.exit_code == 0
    assert grafana.writes == []
    assert len(grafana.requests) >= 6, "it looked at everything"
    assert second.output.count("is as it should be") == 6


def test_diff_tells_what_a_push_would_change_and_writes_nothing(grafana: Grafana) -> None:
    nothing_yet = run(grafana, "diff", "--clickhouse", CLICKHOUSE)
    assert nothing_yet.exit_code == 1
    assert "+ dashboard tristream source\n" in nothing_yet.output
    assert grafana.writes == []
    run(grafana, "push", "--clickhouse", CLICKHOUSE)
    grafana.requests.clear()
    grafana.dashboards[RUN_UID]["dashboard"]["title"] = "mine"
    (group,) = grafana.rule_groups.values()
    group["rules"][0]["for"] = "1h"
    found = run(grafana, "diff", "--clickhouse", CLICKHOUSE)
    assert found.exit_code == 1
    assert found.output.splitlines() == [
        "~ dashboard tristream run",
        "    title: 'mine' -> 'tristream run'",
        "~ alert rules tristream",
        "    rules.tristream-source-falls.for: '1h' -> '10m'",
    ]
    assert grafana.writes == []


def test_a_push_brings_back_what_was_changed_by_hand_and_touches_nothing_else(grafana: Grafana) -> None:
    run(grafana, "push", "--clickhouse", CLICKHOUSE)
    before = copy.deepcopy(grafana.dashboards)
    grafana.requests.clear()
    del grafana.dashboards[SOURCE_UID]["dashboard"]["panels"][3]
    grafana.dashboards[PIPELINE_UID]["meta"]["folderUid"] = "elsewhere"
    output = run(grafana, "push", "--clickhouse", CLICKHOUSE).output
    assert "dashboard tristream source: changed\n" in output
    assert "dashboard tristream pipeline: changed\n" in output
    assert grafana.writes == [("POST", "/api/dashboards/db")] * 2
    assert grafana.dashboards[SOURCE_UID]["dashboard"]["panels"] == before[SOURCE_UID]["dashboard"]["panels"]
    assert grafana.dashboards[PIPELINE_UID]["meta"]["folderUid"] == "tristream"
    assert grafana.dashboards[RUN_UID] == before[RUN_UID]


def test_a_rule_that_is_not_wanted_any_more_goes(grafana: Grafana) -> None:
    run(grafana, "push", "--clickhouse", CLICKHOUSE)
    (group,) = grafana.rule_groups.values()
    group["rules"].append({**group["rules"][0], "uid": "tristream-old"})
    assert "uids: 9 entries -> 8 entries" in run(grafana, "diff").output
    run(grafana, "push")
    (group,) = grafana.rule_groups.values()
    assert "tristream-old" not in {rule["uid"] for rule in group["rules"]}


def test_the_password_is_written_again_only_when_asked(grafana: Grafana) -> None:
    run(grafana, "push", "--clickhouse", CLICKHOUSE)
    other = CLICKHOUSE.replace("secret", "new")
    run(grafana, "push", "--clickhouse", other)
    assert grafana.passwords == {DATASOURCE_UID: "secret"}
    run(grafana, "push", "--clickhouse", other, "--password")
    assert grafana.passwords == {DATASOURCE_UID: "new"}


def test_without_an_address_of_the_database_the_data_source_stays_as_it_is(grafana: Grafana) -> None:
    with pytest.raises(UserError, match="no data source yet"):
        run(grafana, "push")
    run(grafana, "push", "--clickhouse", CLICKHOUSE)
    grafana.datasources[DATASOURCE_UID]["jsonData"]["host"] = "elsewhere"
    grafana.requests.clear()
    run(grafana, "push")
    assert grafana.writes == []


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ((200, {"status": "OK", "message": "Data source is working"}), "works (Data source is working)"),
        ((400, {"status": "ERROR", "message": "dial tcp: lookup clickhouse: no such host"}), "Grafana's own machine"),
        ((400, {"status": "ERROR", "message": "code: 516, Authentication failed"}), "right user and password"),
        ((404, {"message": "Plugin not found"}), "install grafana-clickhouse-datasource"),
        ((500, {"message": "plugin unavailable"}), "install grafana-clickhouse-datasource"),
    ],
)
def test_the_health_of_the_data_source_is_said_in_words(
    grafana: Grafana, answer: tuple[int, object], words: str
) -> None:
    run(grafana, "push", "--clickhouse", CLICKHOUSE)
    grafana.health = answer
    checked = run(grafana, "check")
    assert words in checked.output
    assert checked.exit_code == (0 if answer[0] == 200 else 1)
    pushed = run(grafana, "push")
    assert words in pushed.output
    assert pushed.exit_code == checked.exit_code


def test_check_lists_the_runs_that_grafana_finds(grafana: Grafana) -> None:
    assert "push --clickhouse" in run(grafana, "check").output
    run(grafana, "push", "--clickhouse", CLICKHOUSE)
    values = [["digits", "new"], [40, 0], [80, 0], [12, None]]
    grafana.query_answer = (200, {"results": {"A": {"status": 200, "frames": [{"data": {"values": values}}]}}})
    assert run(grafana, "check").output.splitlines()[1:] == [
        "run digits: step 40 of 80, newest step 12 s ago",
        "run new: step 0 of 0, no step yet",
    ]
    grafana.query_answer = (400, {"results": {"A": {"error": "Unknown table sources"}}, "message": "bad query"})
    with pytest.raises(UserError, match="asking for the runs"):
        run(grafana, "check")


def test_what_is_wrong_is_one_line_with_a_remedy(grafana: Grafana, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GRAFANA_TOKEN", raising=False)
    with pytest.raises(UserError, match="the token is refused"):
        run(grafana, "check", token="glsa_wrong")
    with pytest.raises(UserError, match="GRAFANA_TOKEN"):
        run(grafana, "check", token="")
    grafana.refuses_writes = True
    with pytest.raises(UserError, match="role Editor"):
        run(grafana, "push", "--clickhouse", CLICKHOUSE)
    with pytest.raises(UserError, match="is not an address of ClickHouse"):
        run(grafana, "push", "--clickhouse", "clickhouse:8123")
    with pytest.raises(UserError, match="is not an address of Grafana"):
        run(Target("grafana", TOKEN, ""), "check")


def test_a_grafana_that_does_not_answer_is_to_be_tried_again() -> None:
    with serve_grafana() as gone:
        pass
    with pytest.raises(TryAgainError, match="Grafana does not do it"):
        run(gone, "check")


def test_address_and_token_come_from_the_environment_too(grafana: Grafana, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRAFANA_URL", grafana.url)
    monkeypatch.setenv("GRAFANA_TOKEN", TOKEN)
    monkeypatch.setenv("CLICKHOUSE_URL", CLICKHOUSE)
    result = CliRunner().invoke(app, ["grafana", "push"])
    assert result.exit_code == 0, result.output
    assert grafana.datasources[DATASOURCE_UID]["jsonData"]["host"] == "clickhouse"


def test_a_grafana_below_a_path_is_reached(grafana: Grafana) -> None:
    with pytest.raises(UserError, match="check the address"):
        run(Target(f"{grafana.url}/grafana", TOKEN, ""), "push", "--clickhouse", CLICKHOUSE)
    assert grafana.requests[0] == ("GET", "/grafana/api/folders/tristream")


def test_differences_name_the_place_and_ignore_what_grafana_adds() -> None:
    wanted = {"a": 1, "list": [{"b": "x"}], "empty": {}, "off": False}
    assert list(find_differences(wanted, {"a": 1, "list": [{"b": "x", "id": 7}], "version": 3})) == []
    assert list(find_differences(wanted, {"list": [{"b": "y"}]})) == ["a: none -> 1", "list[0].b: 'y' -> 'x'"]
    assert list(find_differences({"list": [1]}, {"list": [1, 2]})) == ["list: 2 entries -> 1 entries"]

"""The alert rules: each fires on what it is for and clears again, and their form is Grafana's."""

import json
import operator
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tristream.monitoring.grafana.alert_form import anchor, build_provisioning, build_rules
from tristream.monitoring.grafana.alerts import ALERTS, Alert
from tristream.monitoring.grafana.documents import render_alerts
from tristream.monitoring.grafana.panels import PLUGIN_VERSION
from tristream.monitoring.grafana.variables import DATASOURCE_UID
from tristream.monitoring.metrics import ALL_METRICS
from tristream.monitoring.store.client import Client
from tristream.runtime.bus.memory import MemoryBus
from tristream.wire import events, topics

SOURCE = "digits_sum"
HOUR_NS = 3600 * 10**9
Publish = Callable[[MemoryBus, Any], object]


def train(bus: MemoryBus, recipe: Any, steps: Sequence[int], rewards: Sequence[float | None]) -> None:
    """Steps of one group each, with these rewards."""
    for step in steps:
        group = recipe.group(step, SOURCE)
        bus.publish(topics.PROMPTS, recipe.prompt(group, step))
        outcome = recipe.outcome(group, events.Fate.TRAINED, step, rewards=rewards)
        bus.publish(topics.STEPS, recipe.step(step, [outcome], total_steps=100))


def drop(
    bus: MemoryBus, recipe: Any, numbers: Sequence[int], reason: events.DropReason, rewards: Sequence[float]
) -> None:
    for number in numbers:
        group = recipe.group(number, SOURCE)
        bus.publish(topics.PROMPTS, recipe.prompt(group, 1))
        bus.publish(topics.OUTCOMES, recipe.outcome(group, events.Fate.DROPPED, 0, reason, rewards))


def waste(bus: MemoryBus, recipe: Any) -> None:
    """A step before which nobody solved nine groups."""
    drop(bus, recipe, range(10, 19), events.DropReason.ZERO_VARIANCE, NOTHING)
    train(bus, recipe, [2], MIXED)


def score(bus: MemoryBus, recipe: Any, numbers: Sequence[int], status: events.Status) -> None:
    for number in numbers:
        changes = {} if status is events.Status.SCORED else {"components": {}, "metrics": {}, "detail": "broken"}
        bus.publish(topics.REWARDS, recipe.reward(recipe.group(number, SOURCE), 0, 1.0, status=status, **changes))


def tell_lag(bus: MemoryBus, recipe: Any, num_records: float) -> None:
    status = recipe.part(
        events.Part.VERIFIER, measures={"lag_rollouts": num_records, "memory_bytes": 1e9}, created_ns=time.time_ns()
    )
    bus.publish(topics.PARTS, status)


def finish(bus: MemoryBus, recipe: Any) -> None:
    group = recipe.group(100, SOURCE)
    bus.publish(topics.PROMPTS, recipe.prompt(group, 100))
    outcome = recipe.outcome(group, events.Fate.TRAINED, 100, rewards=(1.0, 0.0, 0.0, 1.0))
    bus.publish(topics.STEPS, recipe.step(100, [outcome], total_steps=100))


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """What makes an alert fire, and what makes it clear."""

    before: Publish
    """Nothing is wrong yet."""
    wrong: Publish
    right: Publish
    seconds_later: int = 0
    """How long after the events the rule is asked whether it fires; until then it does not."""
    clears_seconds_later: int = 0


RIGHT, WRONG, MIXED = (1.0, 1.0, 1.0, 0.0), (0.0, 0.0, 0.0, 1.0), (1.0, 0.0, 0.0, 1.0)
NOTHING = (0.0, 0.0, 0.0, 0.0)

SCENARIOS = {
    "tristream-source-falls": Scenario(
        before=lambda bus, recipe: train(bus, recipe, range(1, 26), RIGHT),
        wrong=lambda bus, recipe: train(bus, recipe, range(26, 31), WRONG),
        right=lambda bus, recipe: train(bus, recipe, range(31, 36), RIGHT),
    ),
    "tristream-coverage": Scenario(
        before=lambda bus, recipe: train(bus, recipe, range(1, 6), MIXED),
        wrong=lambda bus, recipe: train(bus, recipe, range(6, 8), (1.0, None, 0.0, None)),
        right=lambda bus, recipe: train(bus, recipe, range(8, 13), MIXED),
    ),
    "tristream-verifier-errors": Scenario(
        before=lambda bus, recipe: score(bus, recipe, range(20), events.Status.SCORED),
        wrong=lambda bus, recipe: score(bus, recipe, range(20, 23), events.Status.ERROR),
        right=lambda bus, recipe: score(bus, recipe, range(23, 80), events.Status.SCORED),
    ),
    "tristream-stall": Scenario(
        before=lambda bus, recipe: train(bus, recipe, range(1, 6), MIXED),
        wrong=lambda _bus, _recipe: None,
        right=finish,
        seconds_later=400,
        clears_seconds_later=400,
    ),
    "tristream-staleness": Scenario(
        before=lambda bus, recipe: train(bus, recipe, range(1, 10), MIXED),
        wrong=lambda bus, recipe: drop(bus, recipe, range(20, 22), events.DropReason.STALE, MIXED),
        right=lambda bus, recipe: train(bus, recipe, range(30, 50), MIXED),
    ),
    "tristream-lag": Scenario(
        before=lambda bus, recipe: tell_lag(bus, recipe, 9_000),
        wrong=lambda bus, recipe: tell_lag(bus, recipe, 11_000),
        right=lambda bus, recipe: tell_lag(bus, recipe, 0),
    ),
    "tristream-dead-letters": Scenario(
        before=lambda _bus, _recipe: None,
        wrong=lambda bus, recipe: bus.publish(topics.DEAD_LETTERS, recipe.dead_letter()),
        right=lambda _bus, _recipe: None,
        clears_seconds_later=1200,
    ),
    "tristream-all-wrong": Scenario(
        before=lambda bus, recipe: train(bus, recipe, [1], MIXED),
        wrong=waste,
        right=lambda bus, recipe: train(bus, recipe, range(30, 36), MIXED),
    ),
}


def firing(client: Client, alert: Alert, run: str, *, seconds_later: int = 0) -> list[dict[str, Any]]:
    """What fires of a run, as Grafana finds it: rows whose one number is beyond the limit."""
    result = client.query(alert.sql.replace("now()", f"(now() + INTERVAL {seconds_later} SECOND)"))
    rows = [dict(zip(result.column_names, row, strict=True)) for row in result.result_rows]
    for row in rows:
        numbers = [name for name, value in row.items() if not isinstance(value, str)]
        assert numbers == ["value"], "labels are text, and one column is the number"
    assert len({tuple(value for name, value in row.items() if name != "value") for row in rows}) == len(rows)
    is_wrong = operator.gt if alert.is_wrong == "gt" else operator.lt
    return [row for row in rows if row["run"] == run and is_wrong(row["value"], alert.limit)]


def test_each_alert_has_a_scenario() -> None:
    assert set(SCENARIOS) == {alert.uid for alert in ALERTS}


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert.uid)
def test_an_alert_fires_and_clears(
    alert: Alert, client: Client, bus: MemoryBus, recipe: Any, write: Callable[[], Any]
) -> None:
    scenario = SCENARIOS[alert.uid]
    alive = recipe.part(events.Part.DISPATCHER, created_ns=time.time_ns() + HOUR_NS // 2)
    bus.publish(topics.PARTS, alive)
    for publish, seconds_later, is_firing in (
        (scenario.before, 0, False),
        (scenario.wrong, scenario.seconds_later, True),
        (scenario.right, scenario.clears_seconds_later, False),
    ):
        recipe.created_ns = time.time_ns()
        publish(bus, recipe)
        write()
        found = firing(client, alert, bus.run, seconds_later=seconds_later)
        assert bool(found) is is_firing, found
        for row in found:
            named = set(re.findall(r"\$labels\.(\w+)", alert.summary))
            assert named <= set(row), "the message names what the query gives"


@pytest.mark.parametrize("uid", ["tristream-all-wrong", "tristream-coverage"])
def test_a_run_that_nobody_has_heard_of_for_an_hour_fires_nothing(
    uid: str, client: Client, bus: MemoryBus, recipe: Any, write: Callable[[], Any]
) -> None:
    alert = next(alert for alert in ALERTS if alert.uid == uid)
    bus.publish(topics.PARTS, recipe.part(events.Part.DISPATCHER, created_ns=time.time_ns() - HOUR_NS - 10**9))
    SCENARIOS[uid].before(bus, recipe)
    SCENARIOS[uid].wrong(bus, recipe)
    write()
    assert not firing(client, alert, bus.run)
    bus.publish(topics.PARTS, recipe.part(events.Part.DISPATCHER, created_ns=time.time_ns()))
    write()
    assert firing(client, alert, bus.run)


def test_a_run_whose_learner_was_told_to_stop_does_not_stall(
    client: Client, bus: MemoryBus, recipe: Any, write: Callable[[], Any]
) -> None:
    stall = next(alert for alert in ALERTS if alert.uid == "tristream-stall")
    bus.publish(topics.PARTS, recipe.part(events.Part.LEARNER, created_ns=time.time_ns()))
    train(bus, recipe, range(1, 4), MIXED)
    write()
    assert firing(client, stall, bus.run, seconds_later=3000)
    done = recipe.part(events.Part.LEARNER, state=events.PartState.DONE, created_ns=time.time_ns())
    bus.publish(topics.PARTS, done)
    write()
    assert not firing(client, stall, bus.run, seconds_later=3000)


def test_rules_have_what_grafana_wants_of_them() -> None:
    rules = build_rules("https://docs.example.org/")
    assert len({rule["uid"] for rule in rules}) == len(rules) == len(ALERTS)
    assert all(len(rule["uid"]) <= 40 for rule in rules), "Grafana's longest uid"
    for rule in rules:
        assert {"for", "noDataState", "execErrState", "condition", "labels"} <= set(rule)
        query, condition = rule["data"]
        assert (query["datasourceUid"], condition["datasourceUid"]) == (DATASOURCE_UID, "__expr__")
        assert query["model"]["pluginVersion"] == PLUGIN_VERSION
        assert condition["model"]["expression"] == query["refId"] == "A"
        assert rule["condition"] == condition["refId"]
        assert re.fullmatch(r"\d+[sm]", rule["for"])


def test_each_rule_links_to_its_section_of_the_runbook() -> None:
    headings = re.findall(r"^## (.+)$", render_alerts(), flags=re.MULTILINE)
    anchors = {heading.lower().replace(" ", "-") for heading in headings}
    for rule, alert in zip(build_rules("https://docs.example.org/"), ALERTS, strict=True):
        address, _, found = rule["annotations"]["runbook_url"].partition("#")
        assert address == "https://docs.example.org/alerts.md"
        assert found == anchor(alert)
        assert found in anchors
    assert anchors == {anchor(alert) for alert in ALERTS}


def test_metrics_that_an_alert_watches_are_in_the_registry() -> None:
    names = {metric.name for metric in ALL_METRICS}
    assert all(alert.metrics and set(alert.metrics) <= names for alert in ALERTS)


def test_the_provisioning_file_expands_nothing_but_the_address_of_the_documents() -> None:
    text = json.dumps(build_provisioning())
    expanded = re.findall(r"(?<!\$)(?:\$\$)*\$(\w+)", text.replace("$$", ""))
    assert set(expanded) == {"TRISTREAM_DOCS"}
    (group,) = build_provisioning()["groups"]
    assert "{{ $$labels.run }}" in group["rules"][0]["annotations"]["summary"]
    path = Path(__file__).parents[2] / "monitoring/grafana/provisioning/alerting/tristream.json"
    assert json.loads(path.read_text(encoding="utf-8")) == build_provisioning()

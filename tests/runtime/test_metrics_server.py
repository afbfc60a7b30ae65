"""``/metrics`` of a part as Prometheus reads it."""

import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_open_metrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from tristream.config.metrics import MetricsSection
from tristream.runtime.errors import UserError
from tristream.runtime.metrics_server import METRICS_PORT, serve_metrics
from tristream.runtime.run_folder import RunFolder
from tristream.runtime.status import PartReporter
from tristream.runtime.waits import MAX_REASONS, OTHER, WaitClock
from tristream.wire.events import Part, PartState, VerifierLoad

METRICS = MetricsSection(host="127.0.0.1", port=0)
OPEN_METRICS = "application/openmetrics-text; version=1.0.0"
MEASURES = {
    "cpu_seconds": 12.5,
    "memory_bytes": 1e9,
    "lag_rollouts": 4.0,
    "lag_rewards": 0.0,
    "num_scored": 9.0,
    "num_timeout": 1.0,
    "groups/trained": 3.0,
    "groups/zero_variance": 2.0,
    "judged_reward/digits_read": 0.25,
    "drops/digits_read/stale": 0.5,
    "needs/digits_read/ocr@1": 1.0,
    "a new number": 7.0,
}


@pytest.fixture
def reporter(tmp_path: Path) -> PartReporter:
    made = PartReporter(RunFolder(tmp_path), "demo", Part.VERIFIER, instance="host-1")
    load = VerifierLoad(verifier="ocr", version="1", num_scored=9)
    made.report(PartState.READY, "policy version 12 (staleness bound)", measures=MEASURES, verifiers=(load,))
    serve_metrics(made, METRICS)
    return made


def fetch(reporter: PartReporter, accept: str = "", path: str = "/metrics") -> str:
    port = int(reporter.status.measures[METRICS_PORT])
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", headers={"Accept": accept})
    with urllib.request.urlopen(request, timeout=10) as answer:
        return str(answer.read().decode())


def samples(text: str) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in parse_text(text)
        for sample in family.samples
    }


def key(name: str, **labels: str) -> tuple[str, frozenset[tuple[str, str]]]:
    return name, frozenset({"run": "demo", "part": "verifier", "instance": "host-1", **labels}.items())


def test_every_measure_is_a_sample_with_the_labels_of_its_part(reporter: PartReporter) -> None:
    found = samples(fetch(reporter))
    expected: Mapping[tuple[str, frozenset[tuple[str, str]]], float] = {
        key("tristream_cpu_seconds_total"): 12.5,
        key("tristream_memory_bytes"): 1e9,
        key("tristream_topic_lag_records", topic="rollouts"): 4,
        key("tristream_topic_lag_records", topic="rewards"): 0,
        key("tristream_rewards_total", status="scored"): 9,
        key("tristream_rewards_total", status="timeout"): 1,
        key("tristream_groups_total", fate="trained"): 3,
        key("tristream_groups_total", fate="zero_variance"): 2,
        key("tristream_judged_reward", source="digits_read"): 0.25,
        key("tristream_source_dropped_ratio", source="digits_read", reason="stale"): 0.5,
        key("tristream_source_needs_verifier", source="digits_read", verifier="ocr@1"): 1,
        key("tristream_a_new_number"): 7,
        key("tristream_verifier_scored_total", verifier="ocr", version="1"): 9,
        key("tristream_part_state", state="ready"): 1,
        key("tristream_part_state", state="starting"): 0,
    }
    assert expected.items() <= found.items()
    assert found[key("tristream_part_uptime_seconds")] >= found[key("tristream_part_state_age_seconds")] >= 0
    assert key("tristream_part_wait_seconds_total", reason="policy version N (staleness bound)") in found


def test_names_follow_the_convention_and_each_family_comes_once(reporter: PartReporter) -> None:
    families = list(parse_open_metrics(fetch(reporter, OPEN_METRICS)))  # type: ignore[no-untyped-call]
    names = [family.name for family in families]
    assert len(set(names)) == len(names)
    for family in families:
        assert family.name.startswith("tristream_")
        assert family.documentation.endswith(".")
        assert family.type in ("counter", "gauge")
        assert all(sample.name.endswith("_total") == (family.type == "counter") for sample in family.samples)


def test_another_path_is_not_found(reporter: PartReporter) -> None:
    with pytest.raises(urllib.error.HTTPError) as missing:
        fetch(reporter, path="/")
    with missing.value:
        assert missing.value.code == 404


def test_without_a_port_nothing_is_served(tmp_path: Path) -> None:
    reporter = PartReporter(RunFolder(tmp_path), "demo", Part.LEARNER)
    serve_metrics(reporter, MetricsSection())
    assert METRICS_PORT not in reporter.status.measures


def test_a_port_that_is_taken_is_an_error_that_names_the_key(reporter: PartReporter, tmp_path: Path) -> None:
    taken = int(reporter.status.measures[METRICS_PORT])
    other = PartReporter(RunFolder(tmp_path), "demo", Part.LEARNER)
    with pytest.raises(UserError, match=f"metrics.port: port {taken} is in use"):
        serve_metrics(other, METRICS.model_copy(update={"port": taken}))


def test_waits_add_up_by_reason_without_their_numbers() -> None:
    now = [0.0]
    clock = WaitClock(lambda: now[0])
    for waiting_for, seconds in (
        ("version 1", 2.0),
        ("version 2", 3.0),
        ("", 10.0),
        ("a batch", 1.0),
        ("version 3", 0.5),
    ):
        clock.observe(waiting_for)
        now[0] += seconds
    assert clock.seconds() == {"version N": 5.5, "a batch": 1.0}


def test_reasons_without_end_do_not_become_labels_without_end() -> None:
    now = [0.0]
    clock = WaitClock(lambda: now[0])
    for number in range(3 * MAX_REASONS):
        clock.observe(f"rollout {chr(97 + number % 26)}{chr(97 + number // 26)}")
        now[0] += 1.0
    seconds = clock.seconds()
    assert (len(seconds), sum(seconds.values()), seconds[OTHER]) == (
        MAX_REASONS + 1,
        3.0 * MAX_REASONS,
        2.0 * MAX_REASONS,
    )

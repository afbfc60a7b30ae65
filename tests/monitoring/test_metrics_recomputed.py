"""Every metric of the registry against a recomputation with pandas, on a recorded run in which much fails.

``recorded_run/`` is the archive of ``tristream up`` on the digits example, 8 steps of 4 groups of 4, with verifiers of
math and ocr that hang, raise and refuse truths on some answers, one that scores beside, and a learner that was killed,
so that steps were trained anew. Its policy never reflects, so a third of the answers is given reflection words.
Statuses are not archived: those of two processes are made up, as are dead letters, and some facts are told a second
time with other values.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC
from pathlib import Path
from typing import Any

import pytest

from recomputed_metrics import Log, Recomputed, Source, Values
from tristream.config.run_file import RunFile
from tristream.monitoring.metrics import ALL_METRICS, Metric
from tristream.monitoring.registry.components import EVALUATION_METRICS
from tristream.monitoring.registry.processes import PART_METRICS
from tristream.monitoring.registry.verifiers import VERIFIER_METRICS
from tristream.monitoring.store.client import Client
from tristream.runtime.archive.reader import ArchiveBus
from tristream.runtime.bus.memory import MemoryBus
from tristream.wire import events, topics

RUN = "recorded"
ARCHIVE = Path(__file__).parent / "recorded_run"
MINUTE_NS = 60 * 10**9
WriteRun = Callable[[str, Callable[[MemoryBus, Any, Callable[[], None]], None]], RunFile]


def read_records() -> list[tuple[topics.Topic[Any], Any]]:
    """The events of the archive in the order of the log."""
    reader = ArchiveBus(ARCHIVE, RUN).reader(topics.ALL_TOPICS)
    by_name = {topic.name: topic for topic in topics.ALL_TOPICS}
    found = []
    while records := reader.poll(timeout_seconds=0, max_records=1000):
        found += [(by_name[record.topic], make_reflect(record.event)) for record in records]
    return found


def make_reflect(event: Any) -> Any:
    """An answer with reflection words before it, if it is one of a third of all."""
    if isinstance(event, events.Rollout) and (event.group.number + event.index) % 3 == 0:
        return replace(event, text=f"Wait, the waiter waits. Let me re-check, and try again. {event.text}")
    return event


def told_again(records: Sequence[tuple[topics.Topic[Any], Any]]) -> list[tuple[topics.Topic[Any], Any]]:
    """Some facts a second time, with other values: the first ones count."""
    rollouts = [event for topic, event in records if topic is topics.ROLLOUTS][::7]
    rewards = [event for topic, event in records if topic is topics.REWARDS][::5]
    return [
        *((topics.ROLLOUTS, replace(rollout, text="wait, yet again", created_ns=rollout.created_ns + 1))
          for rollout in rollouts),
        *((topics.REWARDS, replace(reward, components=dict.fromkeys(reward.components, 0.5)))
          for reward in rewards),
    ]  # fmt: skip


def made_up(recipe: Any, start_ns: int) -> list[tuple[topics.Topic[Any], Any]]:
    """Statuses of two processes over three minutes, one of which starts anew, and a dead letter."""
    statuses = []
    for second in range(0, 180, 20):
        for part, pace in ((events.Part.PRODUCER, 0.9), (events.Part.VERIFIER, 0.2)):
            seconds = pace * (second if part is events.Part.PRODUCER else second % 90)
            measures = {
                "cpu_seconds": seconds, "memory_bytes": 1e9 + second, "gpu_memory_bytes": 2e9,
                "lag_prompts": 180.0 - second, "lag_rollouts": float(second),
            }  # fmt: skip
            statuses.append(recipe.part(part, measures=measures, created_ns=start_ns + second * 10**9))
    letters = [replace(recipe.dead_letter(), created_ns=start_ns, offset=offset) for offset in range(2)]
    return [(topics.PARTS, status) for status in statuses] + [(topics.DEAD_LETTERS, letter) for letter in letters]


@pytest.fixture(scope="module")
def recomputed(write_run: WriteRun) -> Recomputed:
    """The run written through the sink, and computed anew from its records."""
    told: list[tuple[topics.Topic[Any], Any]] = []

    def publish(bus: MemoryBus, recipe: Any, _publish_example: Callable[[], None]) -> None:
        records = read_records()
        start_ns = min(event.created_ns for topic, event in records if topic is topics.PROMPTS)
        told.extend((*records, *told_again(records), *made_up(recipe, start_ns)))
        for topic, event in told:
            bus.publish(topic, event)

    settings = write_run(RUN, publish)

    def of(topic: topics.Topic[Any]) -> list[Any]:
        return [event for found, event in told if found is topic]

    return Recomputed(
        Log(
            prompts=of(topics.PROMPTS), rollouts=of(topics.ROLLOUTS), rewards=of(topics.REWARDS),
            outcomes=of(topics.OUTCOMES), steps=of(topics.STEPS), statuses=of(topics.PARTS),
            dead_letters=of(topics.DEAD_LETTERS),
            sources={source.name: Source(metric=source.metric, correct_at=source.correct_at)
                     for source in settings.sources},
        )
    )  # fmt: skip


def recompute(metric: Metric, recomputed: Recomputed) -> Values:
    """The values of a metric without the database."""
    name, of_whole_columns = metric.name, {
        "source_steps": recomputed.of_trained,
        "source_groups": recomputed.of_judged,
        "evaluation": recomputed.of_evaluation,
        "verifier_minutes": recomputed.of_minutes,
        "step_times": recomputed.of_steps,
        "part_minutes": recomputed.of_processes,
    }  # fmt: skip
    kinds = {"component": "components", "weighted_component": "weighted", "shadow_component": "shadows",
             "verifier_metric": "metrics"}  # fmt: skip
    others = {
        "reflection_word": recomputed.of_words,
        "threshold": recomputed.of_thresholds,
        "phase_seconds": recomputed.of_phases,
        "rollouts_per_second": lambda: recomputed.of_work("rollouts"),
        "sampled_tokens_per_second": lambda: recomputed.of_work("length"),
        "dropped_groups": recomputed.of_drops,
        "dead_letters": recomputed.of_dead_letters,
    }
    if name in others:
        return others[name]()
    if metric.view == "source_components":
        return (
            recomputed.of_components(kinds[name])
            if name in kinds
            else recomputed.of_components("metrics", known_as(name))
        )
    return of_whole_columns.get(metric.view, recomputed.of_steps)(name)


def known_as(name: str) -> list[str]:
    """What the two styles of the detection verifier call a metric."""
    limit, _, kind = name.removeprefix("iou_").partition("_")
    return [name, f"report_iou_{limit}_label_match_{kind}", f"pure_{name}_score"]


def ask(client: Client, metric: Metric) -> Values:
    """The values of a metric as the database has them; what is NULL is left out."""
    result = client.query(metric.select("run = {run:String}"), {"run": RUN})

    def key(moment: Any) -> int:
        if not hasattr(moment, "timestamp"):
            return int(moment)
        aware = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
        return int(round(aware.timestamp() * 10**6, 0))

    return {(key(row[0]), *row[1:-1]): float(row[-1]) for row in result.result_rows
            if row[-1] is not None and not math.isnan(row[-1])}  # fmt: skip


@pytest.mark.parametrize("metric", ALL_METRICS, ids=lambda metric: metric.name)
def test_a_metric_is_what_pandas_makes_of_the_records(metric: Metric, client: Client, recomputed: Recomputed) -> None:
    expected, found = recompute(metric, recomputed), ask(client, metric)
    assert expected, "the recorded run has none"
    assert set(found) == set(expected)
    wrong = {key: (found[key], value) for key, value in expected.items()
             if not math.isclose(found[key], value, rel_tol=1e-9, abs_tol=1e-12)}  # fmt: skip
    assert wrong == {}


def test_much_fails_in_the_recorded_run(recomputed: Recomputed) -> None:
    statuses = {(reward.status, reward.mode) for reward in recomputed.rewards}
    assert {(status, events.TermMode.ACTIVE) for status in events.Status} <= statuses
    assert (events.Status.SCORED, events.TermMode.SHADOW) in statuses
    assert len(recomputed.log.steps) > len(recomputed.steps), "steps were trained anew"
    assert recomputed.standing_drops()
    assert any(value < 1 for value in recomputed.of_judged("coverage").values())
    assert any(value < 1 for value in recomputed.of_evaluation("evaluation_coverage").values())
    assert len(recomputed.log.rollouts) > len(recomputed.rollouts), "facts were told again"


def test_the_recorded_run_is_small() -> None:
    assert sum(path.stat().st_size for path in ARCHIVE.rglob("*") if path.is_file()) < 2**20
    assert {*EVALUATION_METRICS, *VERIFIER_METRICS, *PART_METRICS} <= set(ALL_METRICS)

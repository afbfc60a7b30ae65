"""Values that no column was made for, on each topic: the sink lives, and every other record is written."""

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import pytest

from tristream.config.parts import MonitorSettings
from tristream.config.run_file import RunFile
from tristream.monitoring.page.answer_cache import to_json
from tristream.monitoring.queries.curves import read_curves, read_layers
from tristream.monitoring.queries.gallery import read_extreme_rollouts
from tristream.monitoring.queries.overview import read_overview
from tristream.monitoring.queries.parts import read_parts
from tristream.monitoring.queries.rollout_search import Search, search_rollouts
from tristream.monitoring.queries.sources import read_sources
from tristream.monitoring.queries.summary import read_summary
from tristream.monitoring.store.client import Client
from tristream.monitoring.store.sink import Sink
from tristream.runtime.bus.memory import MemoryBus
from tristream.wire import events, topics
from tristream.wire.arrays import LogProbs, Tokens

NAN = math.nan
FIRST_NS, LAST_NS = -(2**63), 2**63 - 1


def poison_rollout(recipe: Any, value: float) -> events.Rollout:
    spans = (events.VersionSpan(version=0, start=0, end=2),)
    answer = events.sampled(Tokens.of([1, 2]), LogProbs.of([value, value]), spans)
    rollout: events.Rollout = recipe.rollout(recipe.group(0), 0, segments=(answer,), queued_seconds=value)
    return rollout


CORPUS: Mapping[str, Callable[[Any], tuple[topics.Topic[Any], Any]]] = {
    "a prompt of another age": lambda r: (
        topics.PROMPTS, events_with(r.prompt(r.group(0)), created_ns=FIRST_NS)),
    "a prompt of negative size": lambda r: (
        topics.PROMPTS, events_with(r.prompt(events_with(r.group(0), size=-1)))),
    "log-probabilities that are not numbers": lambda r: (topics.ROLLOUTS, poison_rollout(r, NAN)),
    "infinite log-probabilities": lambda r: (topics.ROLLOUTS, poison_rollout(r, math.inf)),
    "a rollout without tokens": lambda r: (topics.ROLLOUTS, r.rollout(r.group(0), 0, segments=(), text="")),
    "a huge text": lambda r: (topics.ROLLOUTS, r.rollout(r.group(0), 0, text="\x00\U0001f600" * 700_000)),
    "a reward that is not a number": lambda r: (topics.REWARDS, r.reward(r.group(0), 0, NAN)),
    "a reward in the far future": lambda r: (topics.REWARDS, r.reward(r.group(0), 0, 1.0, created_ns=LAST_NS)),
    "a reward with many components": lambda r: (
        topics.REWARDS, r.reward(r.group(0), 0, 1.0, components={f"c{n}": NAN for n in range(5000)})),
    "an outcome with infinite rewards": lambda r: (
        topics.OUTCOMES, r.outcome(r.group(0), events.Fate.DROPPED, 0, events.DropReason.CONFLICTING, [math.inf] * 4)),
    "a version that is negative": lambda r: (topics.POLICY, events_with(r.policy(-5), created_ns=-1)),
    "a step of no numbers": lambda r: (
        topics.STEPS, events_with(r.step(1, []), metrics={"loss": NAN}, num_completion_tokens=-1)),
    "a command of another age": lambda r: (topics.COMMANDS, events_with(r.command(), created_ns=LAST_NS)),
    "a part that never started": lambda r: (
        topics.PARTS, r.part(events.Part.LEARNER, started_ns=FIRST_NS, measures={"version": NAN})),
    "a dead letter of another age": lambda r: (topics.DEAD_LETTERS, events_with(r.dead_letter(), created_ns=FIRST_NS)),
}  # fmt: skip


def events_with(event: Any, **changes: Any) -> Any:
    return replace(event, **changes)


@pytest.mark.parametrize("name", CORPUS)
def test_the_sink_lives_and_everything_else_is_written_and_shown(
    name: str, bus: MemoryBus, client: Client, settings: RunFile, recipe: Any, write: Callable[[], Sink]
) -> None:
    topic, event = CORPUS[name](recipe)
    bus.publish(topic, event)
    for number in (1, 2):
        bus.publish(topic, other_of(topic, recipe, number))
    write()
    write()
    table = {"deadletter": "dead_letters"}.get(topic.name, topic.name)
    (num_rows,) = client.query(f"SELECT count() FROM {table} FINAL WHERE run = '{settings.run.id}'").result_rows[0]
    letters = [record.event for record in bus.reader([topics.DEAD_LETTERS]).read_to_end()]
    num_given_up = sum(letter.topic == topic.name for letter in letters)
    assert num_rows == 3 - (num_given_up if topic is not topics.DEAD_LETTERS else 1)
    assert len(show_everything(client, settings)) > 100


def other_of(topic: topics.Topic[Any], recipe: Any, number: int) -> Any:
    """A good event of a topic."""
    group = recipe.group(number)
    if topic is topics.DEAD_LETTERS:
        return events_with(recipe.dead_letter(), offset=10 + number)
    return {
        topics.PROMPTS: lambda: recipe.prompt(group),
        topics.ROLLOUTS: lambda: recipe.rollout(group, 0),
        topics.REWARDS: lambda: recipe.reward(group, 0, 1.0),
        topics.OUTCOMES: lambda: recipe.trained(number, number),
        topics.POLICY: lambda: recipe.policy(number),
        topics.STEPS: lambda: recipe.step(1 + number, [recipe.trained(number, number)]),
        topics.COMMANDS: lambda: events_with(recipe.command(), id=f"other-{number}"),
        topics.PARTS: lambda: recipe.part(events.Part.PRODUCER, f"host-{number}"),
    }[topic]()


def show_everything(client: Client, settings: RunFile) -> bytes:
    """All that page and report ask for, as JSON."""
    run = settings.run.id
    return to_json(
        [
            read_overview(client, run), read_curves(client, run), read_layers(client, run), read_parts(client, run),
            search_rollouts(client, run, Search()), read_extreme_rollouts(client, run, 2), read_summary(client, run),
            read_sources(client, MonitorSettings.of(settings)),
        ]
    )  # fmt: skip

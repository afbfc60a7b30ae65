"""What page and terminal say of each source: its newest groups, drops by reason, all wrong answers, pauses."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from tristream.config.parts import MonitorSettings
from tristream.config.run_file import RunFile
from tristream.monitoring.queries.overview import read_evaluation
from tristream.monitoring.queries.sources import NUM_GROUPS, read_sources
from tristream.monitoring.queries.summary import read_lost
from tristream.monitoring.store.client import Client
from tristream.runtime.bus.memory import MemoryBus
from tristream.wire import events, topics

Read = Callable[[], dict[str, dict[str, Any]]]


@pytest.fixture
def read(client: Client, settings: RunFile, write: Callable[[], object]) -> Read:
    """Write what is on the bus, and read the facts by source."""

    def write_and_read() -> dict[str, dict[str, Any]]:
        write()
        return {row["source"]: row for row in read_sources(client, MonitorSettings.of(settings))}

    return write_and_read


def publish_dropped(
    bus: MemoryBus, recipe: Any, number: int, rewards: list[float], reason: events.DropReason, **rollout: Any
) -> None:
    group = recipe.group(number)
    bus.publish(topics.PROMPTS, recipe.prompt(group))
    bus.publish(topics.ROLLOUTS, recipe.rollout(group, 0, **rollout))
    bus.publish(topics.OUTCOMES, recipe.outcome(group, events.Fate.DROPPED, 0, reason, rewards))


def test_groups_that_are_all_wrong_are_told_from_groups_that_are_all_right(
    bus: MemoryBus, recipe: Any, read: Read
) -> None:
    publish_dropped(bus, recipe, 0, [1.0] * 4, events.DropReason.ZERO_VARIANCE)
    publish_dropped(bus, recipe, 1, [0.0] * 4, events.DropReason.ZERO_VARIANCE, text="1 + 4 = 5")
    publish_dropped(bus, recipe, 2, [0.0, 1.0, 1.0, 1.0], events.DropReason.STALE)
    row = read()["digits_sum"]
    assert (row["num_groups"], row["num_all_wrong"]) == (3, 1)
    assert row["dropped"] == {"zero_variance": 2, "stale": 1}
    assert (row["answer"]["number"], row["answer"]["text"], row["answer"]["truth"]) == (1, "1 + 4 = 5", "\\boxed{12}")


def test_a_group_that_a_step_used_is_not_dropped_before_its_checkpoint_either(
    bus: MemoryBus, recipe: Any, read: Read
) -> None:
    for number in range(3):
        bus.publish(topics.PROMPTS, recipe.prompt(recipe.group(number)))
    bus.publish(topics.STEPS, recipe.step(1, [recipe.trained(0, 1), recipe.trained(1, 1)]))
    publish_dropped(bus, recipe, 2, [0.0] * 4, events.DropReason.ZERO_VARIANCE)
    row = read()["digits_sum"]
    assert (row["num_groups"], row["num_all_wrong"], row["dropped"]) == (3, 1, {"zero_variance": 1})


def test_only_the_newest_groups_count(bus: MemoryBus, recipe: Any, read: Read) -> None:
    for number in range(NUM_GROUPS + 10):
        rewards, reason = ([0.0] * 4, events.DropReason.ZERO_VARIANCE) if number < 15 else ([], events.DropReason.STALE)
        publish_dropped(bus, recipe, number, rewards, reason)
    row = read()["digits_sum"]
    assert (row["num_groups"], row["num_all_wrong"], row["dropped"]) == (
        NUM_GROUPS,
        5,
        {"zero_variance": 5, "stale": 59},
    )


def test_an_answer_that_failed_says_why(bus: MemoryBus, recipe: Any, read: Read) -> None:
    error = "the image has 400,000,000 pixels"
    publish_dropped(bus, recipe, 0, [], events.DropReason.INCOMPLETE, text="", segments=(), error=error)
    assert read()["digits_sum"]["answer"]["error"] == error


def test_a_source_is_paused_until_it_is_resumed_as_the_dispatcher_says(bus: MemoryBus, recipe: Any, read: Read) -> None:
    pause = replace(
        recipe.command(), id="p", kind=events.CommandKind.PAUSE_SOURCE, sources=("digits_sum",), reason="all were stale"
    )
    bus.publish(topics.COMMANDS, pause)
    rows = read()
    assert {name: row["paused"] for name, row in rows.items() if row["paused"]} == {"digits_sum": "all were stale"}
    measures = {"paused/digits_sum": 0.0, "paused/digits_read": 1.0}
    bus.publish(topics.PARTS, recipe.part(events.Part.DISPATCHER, measures=measures))
    rows = read()
    assert {name: row["paused"] for name, row in rows.items() if row["paused"]} == {"digits_read": "paused"}
    resume = replace(pause, id="r", kind=events.CommandKind.RESUME_SOURCE, created_ns=pause.created_ns + 1)
    bus.publish(topics.COMMANDS, resume)
    assert read()["digits_sum"]["paused"] == ""


def test_a_source_of_which_nothing_is_known_has_a_row(read: Read) -> None:
    row = read()["digits_count"]
    assert (row["num_groups"], row["num_all_wrong"], row["dropped"], row["answer"]) == (0, 0, {}, None)


def test_of_a_version_that_was_evaluated_anew_the_newest_attempt_counts(
    bus: MemoryBus, client: Client, settings: RunFile, recipe: Any, write: Callable[[], object]
) -> None:
    def evaluate(attempt: int, accuracies: list[float]) -> None:
        for number, accuracy in enumerate(accuracies):
            group = replace(recipe.group(number, eval_step=4), eval_attempt=attempt)
            bus.publish(topics.PROMPTS, recipe.prompt(group))
            bus.publish(topics.ROLLOUTS, recipe.rollout(group, 0))
            bus.publish(topics.REWARDS, recipe.reward(group, 0, accuracy))

    evaluate(0, [1.0, 1.0])
    write()
    assert read_evaluation(client, settings.run.id)["digits_sum"]["now"]["value"] == 1.0
    evaluate(1, [0.0, 1.0])
    write()
    (round_,) = read_evaluation(client, settings.run.id)["digits_sum"]["rounds"]
    assert (round_["eval_attempt"], round_["value"], round_["num_judged"], round_["is_complete"]) == (1, 0.5, 2, True)
    bus.publish(topics.PROMPTS, recipe.prompt(replace(recipe.group(0, eval_step=4), eval_attempt=2)))
    write()
    assert read_evaluation(client, settings.run.id) == {}, "the round that counts has no answer yet"


def test_what_was_lost_is_counted_once_and_named(
    bus: MemoryBus, client: Client, settings: RunFile, recipe: Any, write: Callable[[], object]
) -> None:
    for part in ("assembler", "verifier"):
        bus.publish(topics.DEAD_LETTERS, replace(recipe.dead_letter(), part=part))
    row = replace(
        recipe.dead_letter(), topic="sums.parquet", offset=12, key=b"digits_sum", part="dispatcher", error="no image",
    )  # fmt: skip
    bus.publish(topics.DEAD_LETTERS, row)
    bus.publish(topics.DEAD_LETTERS, replace(row, created_ns=row.created_ns + 1))
    pause = replace(recipe.command(), kind=events.CommandKind.PAUSE_SOURCE, sources=("digits_sum",), reason="stale")
    bus.publish(topics.COMMANDS, pause)
    write()
    lost = read_lost(client, settings.run.id)
    assert lost["dead_letters"] == 1
    assert lost["dead_letters_by_reason"] == [
        {"topic": "rollouts", "reason": "not protobuf of this topic", "number": 1}
    ]
    assert lost["skipped_rows"] == [{"source": "digits_sum", "file": "sums.parquet", "row": 12, "reason": "no image"}]
    assert lost["num_skipped_rows"] == 1
    assert lost["pauses"] == [{"sources": ["digits_sum"], "from_number": 0, "reason": "stale"}]

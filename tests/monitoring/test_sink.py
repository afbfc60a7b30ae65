"""The sink: each event lands once, whatever is delivered twice."""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from tristream.monitoring.store.client import Client
from tristream.monitoring.store.closing_keys import ClosingKeys
from tristream.monitoring.store.sink import Sink
from tristream.runtime.archive.reader import ArchiveBus
from tristream.runtime.archive.writer import ArchiveWriter
from tristream.runtime.bus.memory import MemoryBus
from tristream.wire import events, topics
from tristream.wire.arrays import LogProbs, Tokens

Write = Callable[[], Sink]
Select = Callable[[str], list[Mapping[str, Any]]]

EXPECTED = {"prompts": 1, "images": 1, "rollouts": 4, "rewards": 4, "outcomes": 1, "policy": 1, "steps": 1,
            "commands": 1, "parts": 1, "dead_letters": 1, "sources": 4}  # fmt: skip


def publish_group(bus: MemoryBus, recipe: Any, number: int) -> None:
    group = recipe.group(number)
    bus.publish(topics.PROMPTS, recipe.prompt(group))
    for index in range(4):
        bus.publish(topics.ROLLOUTS, recipe.rollout(group, index))
        bus.publish(topics.REWARDS, recipe.reward(group, index, 1.0))


def publish_one_of_each(bus: MemoryBus, recipe: Any) -> None:
    publish_group(bus, recipe, 0)
    bus.publish(topics.OUTCOMES, recipe.outcome(recipe.group(0), events.Fate.TRAINED, 1))
    bus.publish(topics.POLICY, recipe.policy(0))
    bus.publish(topics.STEPS, recipe.step(1, [recipe.trained(0, 1)]))
    bus.publish(topics.COMMANDS, recipe.command())
    bus.publish(topics.PARTS, recipe.part(events.Part.VERIFIER))
    bus.publish(topics.DEAD_LETTERS, recipe.dead_letter())


def count_rows(select: Select) -> dict[str, int]:
    return {
        table: select(f"SELECT count() AS n FROM {table} FINAL WHERE run = {{run:String}}")[0]["n"]
        for table in EXPECTED
    }


def test_every_event_lands_once_when_published_twice(bus: MemoryBus, recipe: Any, write: Write, select: Select) -> None:
    publish_one_of_each(bus, recipe)
    publish_one_of_each(bus, recipe)
    assert write().num_events == 30
    assert count_rows(select) == EXPECTED


def test_every_event_lands_once_when_the_sink_dies_before_its_commit(
    bus: MemoryBus, client: Client, recipe: Any, write: Write, select: Select, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish_one_of_each(bus, recipe)
    dying = Sink(bus, client, flush_seconds=0.1)
    monkeypatch.setattr(dying._reader, "commit", lambda: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        dying.drain()
    assert write().num_events == 15
    assert count_rows(select) == EXPECTED


def test_a_second_sink_reads_only_what_the_first_did_not_commit(bus: MemoryBus, recipe: Any, write: Write) -> None:
    publish_one_of_each(bus, recipe)
    assert write().num_events == 15
    bus.publish(topics.POLICY, recipe.policy(1))
    assert write().num_events == 1


def test_what_is_written_and_not_closed_is_not_committed(
    bus: MemoryBus, client: Client, recipe: Any, write: Write, select: Select, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tristream.monitoring.store.sink.STEPS_SHARE", 1e-6)
    rewards = f"SELECT mean_reward FROM source_steps WHERE run = '{bus.run}'"
    killed = Sink(bus, client, flush_seconds=0.0)
    bus.publish(topics.STEPS, recipe.step(9, [recipe.trained(9, 9)]))
    while not killed.num_events:
        killed.step()
    publish_one_of_each(bus, recipe)
    while killed.num_events < 16:
        killed.step()
    assert count_rows(select)["rewards"] == 4
    assert select(rewards) == []
    assert write().num_events == 15
    assert [row["mean_reward"] for row in select(rewards)] == [0.5]


def test_nothing_is_written_before_the_flush_time_and_all_of_it_after(
    bus: MemoryBus, client: Client, recipe: Any, select: Select
) -> None:
    for version in range(5):
        bus.publish(topics.POLICY, recipe.policy(version))
    patient = Sink(bus, client, flush_seconds=3600.0)
    assert (patient.step(), patient.num_events) == (5, 0)
    assert count_rows(select) == dict.fromkeys(EXPECTED, 0)
    quick = Sink(bus, client, flush_seconds=0.0)
    assert (quick.step(), quick.num_events) == (5, 5)


def test_a_report_of_a_step_does_not_wait_for_the_flush_time_and_its_figures_do_not_for_others(
    bus: MemoryBus, client: Client, recipe: Any, select: Select, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish_group(bus, recipe, 0)
    sink = Sink(bus, client, flush_seconds=3600.0)
    assert (sink.step(), sink.num_events) == (9, 0)
    for pace in (sink._others_pace, sink._commit_pace):
        monkeypatch.setattr(pace, "_next_seconds", math.inf)
    committed: list[None] = []
    monkeypatch.setattr(sink._reader, "commit", lambda: committed.append(None))
    bus.publish(topics.STEPS, recipe.step(1, [recipe.trained(0, 1)]))
    assert (sink.step(), sink.num_events) == (1, 10)
    rewards = f"SELECT step, mean_reward FROM source_steps WHERE run = '{bus.run}'"
    assert [tuple(row.values()) for row in select(rewards)] == [(1, 0.5)]
    assert select(f"SELECT num_rollouts FROM throughput WHERE run = '{bus.run}'") == []
    assert committed == []
    sink.flush(is_last=True)
    assert select(f"SELECT sum(num_rollouts) AS n FROM throughput WHERE run = '{bus.run}'") == [{"n": 4}]
    assert committed == [None]


def test_what_nobody_looks_at_waits_until_somebody_does_or_for_its_time(
    bus: MemoryBus, client: Client, recipe: Any, select: Select, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = False
    archive = ArchiveWriter(tmp_path, bus.log_id())
    sink = Sink(bus, client, flush_seconds=0.0, is_watched=lambda: looks, archive=archive)
    figures = f"SELECT step, mean_reward FROM source_steps WHERE run = '{bus.run}'"
    publish_group(bus, recipe, 0)
    bus.publish(topics.STEPS, recipe.step(1, [recipe.trained(0, 1)]))
    assert (sink.step(), sink.num_events) == (10, 0)
    archived = ArchiveBus(tmp_path, bus.run).reader([topics.STEPS, topics.REWARDS])
    assert len(list(archived.read_to_end())) == 5
    looks = True
    assert (sink.step(), sink.num_events) == (0, 10)
    assert [tuple(row.values()) for row in select(figures)] == [(1, 0.5)]
    looks = False
    publish_group(bus, recipe, 1)
    bus.publish(topics.STEPS, recipe.step(2, [recipe.trained(1, 2)]))
    monkeypatch.setattr(sink._commit_pace, "_next_seconds", math.inf)
    assert (sink.step(), sink.num_events) == (10, 10)
    monkeypatch.setattr("tristream.monitoring.store.sink.UNWATCHED_SECONDS", 0.0)
    assert (sink.step(), sink.num_events) == (0, 20)
    assert len(select(figures)) == 1
    monkeypatch.setattr(sink._commit_pace, "_next_seconds", 0.0)
    sink.step()
    assert len(select(figures)) == 2
    sink.close()


def test_the_first_of_two_rollouts_of_one_identity_wins_on_one_log(
    bus: MemoryBus, recipe: Any, write: Write, select: Select
) -> None:
    group = recipe.group(0)
    bus.publish(topics.ROLLOUTS, recipe.rollout(group, 0, text="first"))
    bus.publish(topics.ROLLOUTS, recipe.rollout(group, 0, text="second"))
    write()
    assert select("SELECT text FROM rollouts FINAL WHERE run = {run:String}") == [{"text": "first"}]


def test_a_step_trained_again_after_a_resume_replaces_the_old_one(
    bus: MemoryBus, recipe: Any, write: Write, select: Select
) -> None:
    bus.publish(topics.STEPS, recipe.step(3, [recipe.trained(0, 3), recipe.trained(1, 3)]))
    recipe.created_ns += 1
    bus.publish(topics.STEPS, recipe.step(3, [recipe.trained(7, 3)]))
    write()
    assert select("SELECT step, numbers FROM steps FINAL WHERE run = {run:String}") == [{"step": 3, "numbers": [7] * 4}]


def test_two_different_outcomes_of_one_group_both_stay_visible(
    bus: MemoryBus, recipe: Any, write: Write, select: Select
) -> None:
    group = recipe.group(5)
    bus.publish(topics.OUTCOMES, recipe.outcome(group, events.Fate.TRAINED, 2))
    bus.publish(topics.OUTCOMES, recipe.outcome(group, events.Fate.DROPPED, 0, events.DropReason.STALE))
    write()
    rows = select("SELECT fate, step, reason FROM outcomes FINAL WHERE run = {run:String} ORDER BY fate")
    assert [tuple(row.values()) for row in rows] == [("dropped", 0, "stale"), ("trained", 2, "")]


def test_a_malformed_record_becomes_a_row_of_dead_letters(bus: MemoryBus, write: Write, select: Select) -> None:
    bus.publish_raw(topics.ROLLOUTS, "k", b"\xff\xff", {topics.SOURCE_HEADER: b"digits_sum"})
    write()
    write()
    rows = select("SELECT topic, source, value_bytes FROM dead_letters FINAL WHERE run = {run:String}")
    assert rows == [{"topic": "rollouts", "source": "digits_sum", "value_bytes": 2}]


def test_a_value_that_does_not_fit_its_column_is_a_dead_letter_and_the_rest_is_written(
    bus: MemoryBus, client: Client, recipe: Any, write: Write, select: Select, monkeypatch: pytest.MonkeyPatch
) -> None:
    for index in range(4):
        bus.publish(topics.REWARDS, recipe.reward(recipe.group(0), index, 1.0, detail=f"rollout {index}"))
    insert = client.insert

    def refuse_third(table: str, data: Sequence[Sequence[Any]], **options: Any) -> object:
        if any("rollout 2" in row for row in data):
            raise OverflowError("too large")
        return insert(table, data, **options)

    monkeypatch.setattr(client, "insert", refuse_third)
    write()
    write()
    assert select("SELECT count() AS n FROM rewards FINAL WHERE run = {run:String}") == [{"n": 3}]
    rows = select("SELECT topic, error FROM dead_letters FINAL WHERE run = {run:String}")
    assert rows == [{"topic": "rewards", "error": "does not fit its table: too large"}]


def test_values_survive_as_they_were(bus: MemoryBus, recipe: Any, write: Write, select: Select) -> None:
    text = "Zażółć \U0001f600 \x00 'quotes' \\n"
    bus.publish(topics.ROLLOUTS, recipe.rollout(recipe.group(0), 0, text=text, segments=()))
    write()
    rows = select(
        "SELECT text, oldest_version, num_completion_tokens, toUnixTimestamp64Nano(created) AS ns, reward_weights"
        " FROM rollouts FINAL WHERE run = {run:String}"
    )
    assert [tuple(row.values()) for row in rows] == [(text, -1, 0, recipe.created_ns, {"math.accuracy": 1.0})]


def test_a_rollout_with_a_tool_answer_counts_what_was_sampled_and_shows_all_images(
    bus: MemoryBus, recipe: Any, write: Write, select: Select
) -> None:
    group = recipe.group(0)
    plot = events.Image(media_type="image/png", sha256="b" * 64, size_bytes=3, data=b"PNG")
    segments = (
        events.given(Tokens.of([1] * 7), (recipe.image(group),)),
        events.sampled(Tokens.of([2, 2]), LogProbs.of([-0.5, -1.5]), (events.VersionSpan(version=3, start=0, end=2),)),
        events.given(Tokens.of([4] * 5), (plot,)),
        events.sampled(Tokens.of([2]), LogProbs.of([-4.0]), (events.VersionSpan(version=4, start=0, end=1),)),
    )
    bus.publish(topics.ROLLOUTS, recipe.rollout(group, 0, segments=segments))
    write()
    rows = select(
        "SELECT num_segments, num_prompt_tokens, num_completion_tokens, mean_logprob, oldest_version, newest_version,"
        " image_hashes FROM rollouts FINAL WHERE run = {run:String}"
    )
    hashes = [recipe.image(group).sha256, "b" * 64]
    assert [tuple(row.values()) for row in rows] == [(4, 7, 3, -2.0, 3, 4, hashes)]
    images = select("SELECT sha256 FROM images FINAL WHERE run = {run:String} ORDER BY sha256")
    assert [row["sha256"] for row in images] == sorted(hashes)


def test_a_command_is_kept_once_as_it_was(bus: MemoryBus, recipe: Any, write: Write, select: Select) -> None:
    for _ in range(2):
        bus.publish(topics.COMMANDS, recipe.command())
    write()
    rows = select("SELECT id, kind, verifier, version, weights FROM commands FINAL WHERE run = {run:String}")
    assert [tuple(row.values()) for row in rows] == [("c-1", "promote", "math-strict", "1", {"accuracy": 1.0})]


def test_the_sink_reports_while_nothing_happens(bus: MemoryBus, client: Client) -> None:
    told: list[str] = []
    sink = Sink(bus, client, flush_seconds=3600.0, report=told.append)
    sink.step()
    sink.step()
    assert told == ["", ""]


def test_a_sink_that_was_frozen_amid_a_closing_changes_nothing_when_it_wakes_beside_its_successor(
    bus: MemoryBus, client: Client, recipe: Any, write: Write, select: Select, monkeypatch: pytest.MonkeyPatch
) -> None:
    rewards = f"SELECT step, mean_reward, num_rollouts FROM source_steps WHERE run = '{bus.run}' ORDER BY step"
    publish_one_of_each(bus, recipe)
    frozen = Sink(bus, client, flush_seconds=0.1)
    publish_steps = ClosingKeys.write_steps
    held: list[tuple[Any, ...]] = []
    with monkeypatch.context() as patch:
        patch.setattr(ClosingKeys, "write_steps", lambda *what: held.append(what))
        patch.setattr(frozen._reader, "commit", lambda: None)
        frozen.drain()
    assert held
    assert select(rewards) == []
    bus.publish(topics.STEPS, recipe.step(2, [recipe.trained(1, 2)]))
    publish_group(bus, recipe, 1)
    write()
    expected = select(rewards)
    assert [row["step"] for row in expected] == [1, 2]
    for what in held:
        publish_steps(*what)
    assert select(rewards) == expected

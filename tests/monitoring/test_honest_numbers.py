"""Numbers that could mislead: what is left out is said, what mixes is told apart, and each mean is the learner's."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import pytest

from tristream.config.run_file import RunFile
from tristream.monitoring.store.client import Client
from tristream.monitoring.store.run_facts import write_sources
from tristream.monitoring.store.sink import Sink
from tristream.monitoring.store.writer import Writer
from tristream.runtime.bus.memory import MemoryBus
from tristream.wire import events, topics

Write = Callable[[], object]
Select = Callable[[str], list[Mapping[str, Any]]]
UNSCORED = {"status": events.Status.TIMEOUT, "components": {}, "metrics": {}}


def publish_answer(bus: MemoryBus, recipe: Any, number: int, accuracy: float | None) -> None:
    group = recipe.group(number, eval_step=0)
    bus.publish(topics.PROMPTS, recipe.prompt(group))
    bus.publish(topics.ROLLOUTS, recipe.rollout(group, 0))
    changes = {} if accuracy is not None else UNSCORED
    bus.publish(topics.REWARDS, recipe.reward(group, 0, accuracy or 0.0, **changes))


def test_held_out_answers_that_were_not_scored_are_left_out_and_the_coverage_says_so(
    bus: MemoryBus, recipe: Any, write: Write, select: Select
) -> None:
    for number in range(12):
        publish_answer(bus, recipe, number, 1.0 if number % 2 else None)
    write()
    rows = select("SELECT value, coverage, num_unscored, is_complete FROM evaluation WHERE run = {run:String}")
    assert rows == [{"value": 1.0, "coverage": 0.5, "num_unscored": 6, "is_complete": 1}]


def test_a_round_is_complete_at_99_percent_of_all_its_terms(
    bus: MemoryBus, recipe: Any, write: Write, select: Select
) -> None:
    first, *_ = recipe.spec(recipe.group(0)).terms
    spec = events.RewardSpec(terms=(first, replace(first, id="form", verifier="ocr")), ground_truth="12")
    query = "SELECT is_complete, num_judged FROM evaluation WHERE run = {run:String}"
    for number in range(50):
        group = recipe.group(number, eval_step=0)
        bus.publish(topics.PROMPTS, replace(recipe.prompt(group), reward=spec))
        bus.publish(topics.ROLLOUTS, recipe.rollout(group, 0, reward=spec))
        bus.publish(topics.REWARDS, recipe.reward(group, 0, 1.0))
        if number < 48:
            bus.publish(topics.REWARDS, recipe.reward(group, 0, 1.0, term_id="form", verifier="ocr"))
    write()
    assert select(query) == [{"is_complete": 0, "num_judged": 48}], "98 of 100 terms"
    bus.publish(topics.REWARDS, recipe.reward(recipe.group(48, eval_step=0), 0, 1.0, term_id="form", verifier="ocr"))
    write()
    assert select(query) == [{"is_complete": 1, "num_judged": 49}], "99 of 100 terms"


def test_a_duplicate_changes_nothing_after_a_restart_of_the_monitor_and_a_new_log_does(
    bus: MemoryBus, client: Client, recipe: Any, write: Write, select: Select, monkeypatch: pytest.MonkeyPatch
) -> None:
    group = recipe.group(0)
    query = """
        SELECT text, w.components['accuracy'] AS accuracy
        FROM (SELECT * FROM rollouts FINAL WHERE run = {run:String}) AS r
        INNER JOIN (SELECT * FROM rewards FINAL WHERE run = {run:String}) AS w ON r.number = w.number
    """

    def publish(log: MemoryBus, text: str, accuracy: float) -> None:
        log.publish(topics.ROLLOUTS, recipe.rollout(group, 0, text=text))
        log.publish(topics.REWARDS, recipe.reward(group, 0, accuracy))

    publish(bus, "first", 1.0)
    write()
    monkeypatch.setattr("time.time", lambda: 4e9)
    publish(bus, "second", 0.0)
    write()
    assert select(query) == [{"text": "first", "accuracy": 1.0}]
    other = MemoryBus(bus.run)
    publish(other, "anew", 0.5)
    sink = Sink(other, client, flush_seconds=0.0)
    sink.step()
    sink.close()
    assert select(query) == [{"text": "anew", "accuracy": 0.5}]


def test_what_a_shadow_says_is_never_mixed_with_what_counts_and_each_promotion_is_marked(
    bus: MemoryBus, recipe: Any, write: Write, select: Select
) -> None:
    group = recipe.group(0)
    bus.publish(topics.PROMPTS, recipe.prompt(group))
    shadow = {"term_id": "math-strict", "verifier": "math-strict", "mode": events.TermMode.SHADOW}
    for index in range(4):
        bus.publish(topics.ROLLOUTS, recipe.rollout(group, index))
        bus.publish(topics.REWARDS, recipe.reward(group, index, 1.0))
        bus.publish(topics.REWARDS, recipe.reward(group, index, 0.0, **shadow))
    bus.publish(topics.STEPS, recipe.step(1, [recipe.trained(0, 1)]))
    for number, kind in enumerate(("PROMOTE", "DEMOTE", "PROMOTE")):
        recipe.created_ns += 10**9
        bus.publish(topics.COMMANDS, recipe.command(id=f"c/from/{number}", kind=events.CommandKind[kind]))
    write()
    assert select("SELECT mean_metric FROM source_steps WHERE run = {run:String}") == [{"mean_metric": 1.0}]
    rows = select("SELECT verifier, mode, num_scored FROM verifier_steps WHERE run = {run:String} ORDER BY verifier")
    assert [tuple(row.values()) for row in rows] == [("math", "active", 4), ("math-strict", "shadow", 4)]
    changes = "SELECT mode FROM verifier_changes WHERE run = {run:String} AND verifier = 'math-strict' ORDER BY since"
    assert [row["mode"] for row in select(changes)] == ["active", "shadow", "active"]


def test_entropy_kl_and_clipping_weigh_each_rollout_by_its_tokens_as_the_learner_does(
    bus: MemoryBus, recipe: Any, write: Write, select: Select
) -> None:
    group = recipe.group(0)
    bus.publish(topics.PROMPTS, recipe.prompt(group))
    lengths, measured = (10, 30, 40, 20), (0.2, 0.6, 0.1, 1.0)
    for index, num_tokens in enumerate(lengths):
        bus.publish(topics.ROLLOUTS, recipe.rollout(group, index, num_tokens=num_tokens))
    report = recipe.step(1, [recipe.trained(0, 1)])
    rollouts = tuple(
        replace(rollout, mean_entropy=value, mean_kl=2 * value, clip_fraction=value / 2)
        for rollout, value in zip(report.rollouts, measured, strict=True)
    )
    bus.publish(topics.STEPS, replace(report, rollouts=rollouts))
    write()
    by_tokens = sum(n * value for n, value in zip(lengths, measured, strict=True)) / sum(lengths)
    rows = select("SELECT entropy, kl, clip_fraction, cost_seconds FROM source_steps WHERE run = {run:String}")
    seconds = sum(report.phase_seconds.values())
    assert tuple(rows[0].values()) == pytest.approx((by_tokens, 2 * by_tokens, by_tokens / 2, seconds))


def test_an_outage_shows_as_coverage_and_neither_as_wrong_answers_nor_as_right_ones(
    bus: MemoryBus, recipe: Any, write: Write, select: Select
) -> None:
    for number, rewards in ((0, (1.0, 0.0, None, None)), (1, (None,) * 4)):
        group = recipe.group(number)
        bus.publish(topics.PROMPTS, recipe.prompt(group))
        for index in range(4):
            bus.publish(topics.ROLLOUTS, recipe.rollout(group, index))
            changes = UNSCORED if rewards[index] is None else {}
            bus.publish(topics.REWARDS, recipe.reward(group, index, rewards[index] or 0.0, **changes))
    failed = recipe.outcome(recipe.group(1), events.Fate.DROPPED, 0, events.DropReason.TOO_FEW_VALID, [None] * 4)
    bus.publish(topics.OUTCOMES, failed)
    bus.publish(topics.STEPS, recipe.step(1, [recipe.trained(0, 1, (1.0, 0.0, None, None))]))
    write()
    groups = select(
        "SELECT num_rollouts, num_judged, coverage, judged_reward FROM source_groups WHERE run = {run:String}"
    )
    assert groups == [{"num_rollouts": 8, "num_judged": 2, "coverage": 0.25, "judged_reward": 0.5}]
    steps = select("SELECT share_correct, num_unscored FROM source_steps WHERE run = {run:String}")
    assert steps == [{"share_correct": 0.5, "num_unscored": 0}]
    status = select("SELECT num_scored, num_timeout FROM verifier_steps WHERE run = {run:String}")
    assert status == [{"num_scored": 2, "num_timeout": 6}]


def test_correct_is_what_the_run_file_says_of_the_source_also_after_it_changed(
    bus: MemoryBus, client: Client, settings: RunFile, recipe: Any, write: Write, select: Select
) -> None:
    group = recipe.group(0)
    bus.publish(topics.PROMPTS, recipe.prompt(group))
    for index, accuracy in enumerate((0.4, 0.6, 0.8, 1.0)):
        bus.publish(topics.ROLLOUTS, recipe.rollout(group, index))
        bus.publish(topics.REWARDS, recipe.reward(group, index, accuracy))
    bus.publish(topics.STEPS, recipe.step(1, [recipe.trained(0, 1)]))
    query = "SELECT share_correct FROM source_steps WHERE run = {run:String}"
    write()
    assert select(query) == [{"share_correct": 0.75}]
    sources = [source.model_copy(update={"correct_at": 0.9}) for source in settings.sources]
    write_sources(Writer(client, bus.run, report=print), bus.run, sources)
    sink = Sink(bus, client, flush_seconds=0.0)
    sink.drain()
    sink.close()
    assert select(query) == [{"share_correct": 0.25}]


def test_the_threshold_that_boxes_had_to_reach_is_a_figure_of_the_step(
    bus: MemoryBus, recipe: Any, write: Write, select: Select
) -> None:
    group = recipe.group(0, "digits_find")
    bus.publish(topics.PROMPTS, recipe.prompt(group))
    for index in range(4):
        bus.publish(topics.ROLLOUTS, recipe.rollout(group, index))
        bus.publish(topics.REWARDS, recipe.reward(group, index, 1.0, params_json='{"iou_threshold": 0.75}'))
    outcome = replace(recipe.trained(0, 1), group=group)
    bus.publish(topics.STEPS, recipe.step(1, [outcome]))
    write()
    assert select("SELECT threshold FROM verifier_steps WHERE run = {run:String}") == [{"threshold": 0.75}]
    weighted = "SELECT mean_value FROM source_components WHERE run = {run:String} AND kind = 'weighted' ORDER BY name"
    assert [row["mean_value"] for row in select(weighted)] == pytest.approx([1.0, 0.1])

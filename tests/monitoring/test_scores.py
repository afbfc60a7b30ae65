"""What rollouts are worth: judged once, by assembler and learner, and shown as they say; versions never mix."""

from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import replace
from statistics import fmean
from typing import Any

import pytest

from tristream.runtime.bus.memory import MemoryBus
from tristream.wire import events, topics

Write = Callable[[], object]
Select = Callable[[str], list[Mapping[str, Any]]]

REWARDS_QUERY = """
    SELECT rollout_index, reward, advantage, age, fate FROM scored_rollouts
    WHERE run = {run:String} ORDER BY rollout_index
"""


def read_events(bus: MemoryBus, topic: topics.Topic[Any]) -> list[Any]:
    return [record.event for record in bus.reader((topic,)).read_to_end()]


def weighted_mean(rollout: events.Rollout, rewards: Mapping[tuple[str, int, str], events.Reward]) -> float:
    weighted = [
        (weight, rewards[rollout.group.id, rollout.index, term.id].components[name])
        for term in rollout.reward.terms
        if term.counts
        for name, weight in term.weights.items()
    ]
    return sum(weight * value for weight, value in weighted) / sum(weight for weight, _ in weighted)


@pytest.fixture
def run_of_three_steps(bus: MemoryBus, make_run: Callable[[MemoryBus, int], None], write: Write) -> MemoryBus:
    make_run(bus, 3)
    write()
    return bus


def test_final_rewards_are_those_that_python_computes_from_components(
    run_of_three_steps: MemoryBus, select: Select
) -> None:
    rewards = {(r.group.id, r.index, r.term_id): r for r in read_events(run_of_three_steps, topics.REWARDS)}
    rollouts = read_events(run_of_three_steps, topics.ROLLOUTS)
    expected = {
        (r.group.split, r.group.eval_step, r.group.number, r.index): weighted_mean(r, rewards) for r in rollouts
    }
    rows = select("SELECT * FROM scored_rollouts WHERE run = {run:String}")
    found = {(row["split"], row["eval_step"], row["number"], row["rollout_index"]): row["reward"] for row in rows}
    assert len(found) > 100
    assert found == pytest.approx(expected)


def test_means_by_source_and_step_are_those_that_python_computes(run_of_three_steps: MemoryBus, select: Select) -> None:
    rollouts = {(r.group.id, r.index): r for r in read_events(run_of_three_steps, topics.ROLLOUTS)}
    worth = defaultdict(list)
    for outcome in read_events(run_of_three_steps, topics.OUTCOMES):
        for rollout in outcome.rollouts if outcome.fate is events.Fate.TRAINED else ():
            oldest = rollouts[outcome.group.id, rollout.index].oldest_version
            worth[outcome.group.source, outcome.step].append((rollout.reward, outcome.step - 1 - oldest))
    rows = select("SELECT source, step, mean_reward, mean_age, max_age FROM source_steps WHERE run = {run:String}")
    assert {(row["source"], row["step"]) for row in rows} == set(worth)
    for row in rows:
        rewards, ages = zip(*worth[row["source"], row["step"]], strict=True)
        assert (row["mean_reward"], row["mean_age"]) == pytest.approx((fmean(rewards), fmean(ages)))
        assert row["max_age"] == max(ages)


def judged_by_step(bus: MemoryBus) -> dict[tuple[str, int], list[events.Outcome]]:
    """All judged training groups by source and step: a dropped one counts for the step whose report came next."""
    reports = sorted(read_events(bus, topics.STEPS), key=lambda report: report.created_ns)
    found = defaultdict(list)
    for outcome in read_events(bus, topics.OUTCOMES):
        if outcome.group.split is not events.Split.TRAIN:
            continue
        later = [report.step for report in reports if report.created_ns >= outcome.created_ns]
        if outcome.fate is events.Fate.TRAINED or later:
            step = outcome.step if outcome.fate is events.Fate.TRAINED else later[0]
            found[outcome.group.source, step].append(outcome)
    return found


def test_the_training_reward_is_over_all_judged_rollouts_trained_and_dropped(
    run_of_three_steps: MemoryBus, select: Select
) -> None:
    judged = judged_by_step(run_of_three_steps)
    query = """
        SELECT source, step, judged_reward, num_judged, zero_variance_share FROM source_groups
        WHERE run = {run:String}
    """
    rows = {(row["source"], row["step"]): row for row in select(query)}
    assert set(rows) == set(judged)
    for key, outcomes in judged.items():
        rewards = [rollout.reward for outcome in outcomes for rollout in outcome.rollouts]
        flat = [len({rollout.reward for rollout in outcome.rollouts}) == 1 for outcome in outcomes]
        assert rows[key]["judged_reward"] == pytest.approx(fmean(rewards))
        assert rows[key]["num_judged"] == len(rewards)
        assert rows[key]["zero_variance_share"] == pytest.approx(fmean(flat))
    trained = "SELECT source, step, mean_reward FROM source_steps WHERE run = {run:String}"
    differing = [
        row for row in select(trained)
        if row["mean_reward"] != pytest.approx(rows[row["source"], row["step"]]["judged_reward"])
    ]  # fmt: skip
    assert differing, "groups were dropped in this run"


def test_groups_that_all_or_none_solve_are_told_apart_and_from_others_without_variance(
    bus: MemoryBus, recipe: Any, write: Write, select: Select
) -> None:
    flat = events.DropReason.ZERO_VARIANCE
    drops = {
        0: ([1.0] * 4, flat), 1: ([0.0] * 4, flat), 2: ([0.0] * 4, flat), 3: ([0.5] * 4, flat),
        4: ([1.0, 0.0, 1.0, 0.0], events.DropReason.STALE), 5: ([-0.5] * 4, flat),
        6: ([1.0, 1.0, None, None], events.DropReason.INCOMPLETE), 7: ([1.0, 0.0] * 2, events.DropReason.CONFLICTING),
    }  # fmt: skip
    for number, (rewards, reason) in drops.items():
        group = recipe.group(number)
        bus.publish(topics.PROMPTS, recipe.prompt(group))
        bus.publish(topics.OUTCOMES, recipe.outcome(group, events.Fate.DROPPED, 0, reason, rewards))
    bus.publish(topics.PROMPTS, recipe.prompt(recipe.group(8)))
    recipe.created_ns += 1
    bus.publish(topics.STEPS, recipe.step(3, [recipe.trained(8, 3)]))
    write()
    counted = select("SELECT * FROM source_groups WHERE run = {run:String}")[0]
    assert (counted["step"], counted["num_groups"]) == (3, 7), "neither the incomplete one nor the conflicting one"
    assert counted["solve_all_share"] == pytest.approx(1 / 7)
    assert counted["solve_none_share"] == pytest.approx(3 / 7)
    assert counted["zero_variance_share"] == pytest.approx(5 / 7)
    assert (counted["num_judged"], counted["judged_reward"]) == (30, pytest.approx((4 + 2 + 2 - 2 + 2 + 2) / 30))


def test_what_was_dropped_after_the_newest_report_counts_for_the_next_step_when_there_is_one(
    bus: MemoryBus, recipe: Any, write: Write, select: Select
) -> None:
    query = "SELECT step, num_judged, judged_reward FROM source_groups WHERE run = {run:String} ORDER BY step"
    for number in range(3):
        bus.publish(topics.PROMPTS, recipe.prompt(recipe.group(number)))
    bus.publish(topics.STEPS, recipe.step(1, [recipe.trained(0, 1)]))
    recipe.created_ns += 1
    flat = recipe.outcome(
        recipe.group(1), events.Fate.DROPPED, 0, events.DropReason.ZERO_VARIANCE, [1.0, 1.0, 1.0, 1.0]
    )
    bus.publish(topics.OUTCOMES, flat)
    write()
    before = [{"step": 1, "num_judged": 4, "judged_reward": 0.5}]
    assert select(query) == before
    recipe.created_ns += 1
    bus.publish(topics.STEPS, recipe.step(2, [recipe.trained(2, 2)]))
    write()
    assert select(query) == [*before, {"step": 2, "num_judged": 8, "judged_reward": 0.75}]


def test_truncation_is_over_all_rollouts_of_judged_groups(
    bus: MemoryBus, recipe: Any, write: Write, select: Select
) -> None:
    for number in range(2):
        bus.publish(topics.PROMPTS, recipe.prompt(recipe.group(number)))
        for index in range(4):
            reason = events.FinishReason.LENGTH if number == 1 and index < 3 else events.FinishReason.STOP
            bus.publish(topics.ROLLOUTS, recipe.rollout(recipe.group(number), index, finish_reason=reason))
    dropped = recipe.outcome(recipe.group(1), events.Fate.DROPPED, 0, events.DropReason.ZERO_VARIANCE, [0.0] * 4)
    bus.publish(topics.OUTCOMES, dropped)
    bus.publish(topics.STEPS, recipe.step(1, [recipe.trained(0, 1)]))
    write()
    assert select("SELECT judged_truncated_share AS share FROM source_groups WHERE run = {run:String}") == [
        {"share": 3 / 8}
    ]
    trained = "SELECT truncated_share AS share FROM source_steps WHERE run = {run:String}"
    assert select(trained) == [{"share": 0.0}]


def publish_judged_group(bus: MemoryBus, recipe: Any) -> None:
    bus.publish(topics.PROMPTS, recipe.prompt(recipe.group(0)))
    for index in range(4):
        bus.publish(topics.ROLLOUTS, recipe.rollout(recipe.group(0), index))
        bus.publish(topics.REWARDS, recipe.reward(recipe.group(0), index, 1.0))


def test_until_its_group_is_settled_a_rollout_has_components_and_no_reward(
    bus: MemoryBus, recipe: Any, write: Write, select: Select
) -> None:
    publish_judged_group(bus, recipe)
    write()
    assert [(row["reward"], row["fate"]) for row in select(REWARDS_QUERY)] == [(None, "")] * 4
    said = select(
        "SELECT components['math.accuracy'] AS said, metric_value FROM scored_rollouts WHERE run = {run:String}"
    )
    assert said == [{"said": 1.0, "metric_value": 1.0}] * 4


def test_the_reward_is_what_the_outcome_says_even_where_components_say_otherwise(
    bus: MemoryBus, recipe: Any, write: Write, select: Select
) -> None:
    publish_judged_group(bus, recipe)
    rewards = [0.25, None, 0.75, 0.25]
    bus.publish(
        topics.OUTCOMES,
        recipe.outcome(recipe.group(0), events.Fate.DROPPED, 0, events.DropReason.STALE, rewards),
    )
    write()
    assert [row["reward"] for row in select(REWARDS_QUERY)] == rewards
    assert {row["fate"] for row in select(REWARDS_QUERY)} == {"dropped"}


def test_a_trained_group_has_its_rewards_with_its_step_and_the_outcome_changes_nothing(
    bus: MemoryBus, recipe: Any, write: Write, select: Select
) -> None:
    publish_judged_group(bus, recipe)
    outcome = recipe.outcome(recipe.group(0), events.Fate.TRAINED, 2, None, [1.0, 0.0, None, 0.5], [1, 0, 0, 1])
    bus.publish(topics.STEPS, recipe.step(2, [outcome]))
    write()
    live = select(REWARDS_QUERY)
    assert [(row["reward"], row["age"], row["fate"]) for row in live] == [
        (1.0, 1, "trained"),
        (0.0, 0, "trained"),
        (None, 0, "trained"),
        (0.5, 1, "trained"),
    ]
    assert live[0]["advantage"] == 0.5
    trained = "SELECT count() AS n, avg(age) AS age FROM trained_rollouts WHERE run = {run:String}"
    assert select(trained) == [{"n": 3, "age": 2 / 3}]
    bus.publish(topics.OUTCOMES, outcome)
    write()
    assert select(REWARDS_QUERY) == live
    groups = select("SELECT num_groups, num_zero_variance FROM source_groups WHERE run = {run:String}")
    assert groups == [{"num_groups": 1, "num_zero_variance": 0}]


def test_zero_variance_is_counted_as_the_outcome_says(
    bus: MemoryBus, recipe: Any, write: Write, select: Select
) -> None:
    for number in range(3):
        bus.publish(topics.PROMPTS, recipe.prompt(recipe.group(number)))
    nearly = recipe.outcome(recipe.group(0), events.Fate.DROPPED, 0, events.DropReason.ZERO_VARIANCE, [0.5, 0.4, 0.5])
    bus.publish(topics.OUTCOMES, replace(nearly, has_zero_variance=True))
    bus.publish(topics.OUTCOMES, recipe.outcome(recipe.group(1), events.Fate.DROPPED, 0, events.DropReason.INCOMPLETE))
    alone = [1.0, None, None, None]
    bus.publish(
        topics.OUTCOMES,
        recipe.outcome(recipe.group(2), events.Fate.DROPPED, 0, events.DropReason.TOO_FEW_VALID, alone),
    )
    bus.publish(topics.STEPS, recipe.step(1, []))
    write()
    rows = select("SELECT num_groups, num_zero_variance FROM source_groups WHERE run = {run:String}")
    assert rows == [{"num_groups": 1, "num_zero_variance": 1}]


def test_rewards_of_another_version_never_mix_with_those_that_the_rollout_pinned(
    bus: MemoryBus, recipe: Any, write: Write, select: Select
) -> None:
    group = recipe.group(0)
    bus.publish(topics.REWARDS, recipe.reward(group, 0, 0.0, version="2", components={"accuracy": 0.0, "style": 1.0}))
    bus.publish(topics.ROLLOUTS, recipe.rollout(group, 0))
    bus.publish(topics.REWARDS, recipe.reward(group, 0, 1.0))
    bus.publish(topics.REWARDS, recipe.reward(group, 0, 0.0, term_id="unasked", verifier="unasked"))
    write()
    scores = "SELECT components, statuses, metric_value FROM rollout_scores WHERE run = {run:String}"
    assert select(scores) == [
        {
            "components": {"math.accuracy": 1.0, "math.format": 1.0},
            "statuses": {"math": "scored"},
            "metric_value": 1.0,
        }
    ]
    assert select("SELECT count() AS n FROM rewards FINAL WHERE run = {run:String}") == [{"n": 3}]


def test_what_a_shadow_says_stands_beside(bus: MemoryBus, recipe: Any, write: Write, select: Select) -> None:
    group, shadow = (
        recipe.group(0),
        {"term_id": "math-strict", "verifier": "math-strict", "mode": events.TermMode.SHADOW},
    )
    bus.publish(topics.ROLLOUTS, recipe.rollout(group, 0))
    bus.publish(topics.REWARDS, recipe.reward(group, 0, 0.0, **shadow))
    write()
    query = "SELECT is_judged, components, shadow_components, metric_value FROM rollout_scores WHERE run = {run:String}"
    beside = {"math-strict.accuracy": 0.0, "math-strict.format": 1.0}
    assert select(query) == [
        {"is_judged": 0, "components": {}, "shadow_components": beside, "metric_value": None},
    ]
    bus.publish(topics.REWARDS, recipe.reward(group, 0, 1.0))
    write()
    own = {"math.accuracy": 1.0, "math.format": 1.0}
    assert select(query) == [
        {"is_judged": 1, "components": own, "shadow_components": beside, "metric_value": 1.0},
    ]


def test_two_terms_of_one_verifier_are_told_apart_by_their_ids(
    bus: MemoryBus, recipe: Any, write: Write, select: Select
) -> None:
    group = recipe.group(0)
    first = events.RewardTerm(id="math", verifier="math", version="1", weights={"accuracy": 1.0})
    spec = events.RewardSpec(terms=(first, replace(first, id="math-2", weights={"format": 0.5})), ground_truth="12")
    bus.publish(topics.ROLLOUTS, recipe.rollout(group, 0, reward=spec))
    bus.publish(topics.REWARDS, recipe.reward(group, 0, 1.0))
    bus.publish(topics.REWARDS, recipe.reward(group, 0, 0.25, term_id="math-2"))
    write()
    components = select("SELECT components FROM rollout_scores WHERE run = {run:String}")[0]["components"]
    assert (components["math.accuracy"], components["math-2.accuracy"]) == (1.0, 0.25)
    weights = select("SELECT reward_weights FROM rollouts FINAL WHERE run = {run:String}")[0]["reward_weights"]
    assert weights == {"math.accuracy": 1.0, "math-2.format": 0.5}


def test_a_rollout_of_two_terms_is_judged_when_both_have_answered_and_its_metric_is_the_first_ones(
    bus: MemoryBus, recipe: Any, write: Write, select: Select
) -> None:
    group = recipe.group(0, eval_step=0)
    first, *_ = recipe.spec(group).terms
    second = replace(first, id="ocr", verifier="ocr")
    definition = events.RewardSpec(terms=(first, second), ground_truth="4")
    bus.publish(topics.PROMPTS, replace(recipe.prompt(group), reward=definition))
    bus.publish(topics.ROLLOUTS, recipe.rollout(group, 0, reward=definition))
    query = "SELECT is_judged, metric_value FROM scored_rollouts WHERE run = {run:String}"
    round_query = "SELECT is_complete, value FROM evaluation WHERE run = {run:String}"
    bus.publish(topics.REWARDS, recipe.reward(group, 0, 1.0, term_id="ocr", verifier="ocr"))
    write()
    assert select(query) == [{"is_judged": 0, "metric_value": None}]
    assert select(round_query) == []
    unscored = {"status": events.Status.UNSCORABLE, "components": {}, "metrics": {}}
    bus.publish(topics.REWARDS, recipe.reward(group, 0, 0.0, **unscored))
    write()
    assert select(query) == [{"is_judged": 1, "metric_value": None}], "another term does not stand in for the first"

"""Groups come to figures: what they have to teach, what answers are worth, how long they are, and how fast it goes."""

import math

import pytest

from tried_groups import MAX_TOKENS, TERM, make_failed_group, make_group, make_prompt, make_rollout, make_verdict
from tristream.local.trying.figures import compute_figures, percentile
from tristream.local.trying.judged_groups import GroupKind, JudgedAnswer, JudgedGroup, highest_reward
from tristream.local.trying.pace import compute_pace
from tristream.local.trying.shown_answers import Caption, choose_answers
from tristream.wire.events import FinishReason, OnUnscored, RewardSpec, RewardTerm, Status, TermMode


@pytest.mark.parametrize(
    ("rewards", "kind"),
    [
        ([0.0, 0.0, 0.0], GroupKind.ALL_WRONG),
        ([-0.5, -0.5], GroupKind.ALL_WRONG),
        ([1.0, 1.0, 1.0], GroupKind.ALL_RIGHT),
        ([0.1, 0.1, 0.1], GroupKind.ALL_EQUAL),
        ([0.1, 0.1 + 1e-12], GroupKind.ALL_EQUAL),
        ([0.0, 1.0, 0.0], GroupKind.MIXED),
        ([0.0, None, 1.0], GroupKind.MIXED),
        ([0.0, None, None], GroupKind.UNSCORED),
        ([None, None], GroupKind.UNSCORED),
    ],
)
def test_a_group_is_of_the_kind_that_its_rewards_make_it(rewards: list[float | None], kind: GroupKind) -> None:
    assert make_group(rewards).kind is kind


def test_a_row_that_wants_all_scores_makes_an_incomplete_group_unscored() -> None:
    group = make_group([0.0, None, 1.0])
    strict = make_prompt(size=3, on_unscored=OnUnscored.DROP_GROUP)
    assert JudgedGroup(prompt=strict, answers=group.answers).kind is GroupKind.UNSCORED


def test_the_highest_reward_has_good_components_high_and_penalties_low() -> None:
    penalty = RewardTerm(id="length", verifier="length", version="1", weights={"length": 0.5})
    shame = RewardTerm(id="noise", verifier="noise", version="1", weights={"noise": -1.0})
    ranges = {"math@2": {"accuracy": (0.0, 1.0), "format": (0.0, 1.0)}, "length@1": {"length": (-1.0, 0.0)}}
    assert highest_reward(RewardSpec(terms=(TERM,), ground_truth=""), ranges) == 1.0
    assert highest_reward(RewardSpec(terms=(TERM, penalty), ground_truth=""), ranges) == pytest.approx(1 / 1.5)
    noise = {**ranges, "noise@1": {"noise": (0.0, 3.0)}}
    assert highest_reward(RewardSpec(terms=(TERM, shame), ground_truth=""), noise) == pytest.approx(0.5)
    assert highest_reward(RewardSpec(terms=(shame, TERM), ground_truth=""), ranges) == math.inf


def test_the_figures_of_a_source_add_up() -> None:
    groups = [
        make_group([0.0, 1.0, 0.0, 1.0], number=0),
        make_group([0.0] * 4, number=1, texts=["same"] * 4, num_tokens=MAX_TOKENS, finish_reason=FinishReason.LENGTH),
        make_group([1.0] * 4, number=2, texts=[r"\boxed{3}", "3", "", " "], num_tokens=20),
        make_group([None] * 4, number=3),
        make_failed_group(),
    ]
    figures = compute_figures("sums", groups)
    assert figures.groups == {
        GroupKind.MIXED: 1, GroupKind.ALL_WRONG: 1, GroupKind.ALL_RIGHT: 1, GroupKind.UNSCORED: 2
    }  # fmt: skip
    assert (figures.num_groups, figures.group_size, figures.mixed_share) == (5, 4, 0.2)
    assert (figures.num_answers, figures.num_failed, figures.num_rewarded) == (20, 4, 12)
    assert figures.failure == "an image is damaged"
    assert (figures.reward_mean, figures.reward_lowest, figures.reward_highest) == (0.5, 0.0, 1.0)
    accuracy = figures.components["accuracy"]
    assert list(figures.components) == ["accuracy"], "what weighs nothing is left out"
    assert (accuracy.weight, accuracy.mean, accuracy.lowest, accuracy.highest) == (1.0, 0.5, 0.0, 1.0)
    assert (figures.num_verdicts, figures.unscored[Status.UNSCORABLE].num_verdicts) == (16, 4)
    assert figures.unscored[Status.UNSCORABLE].reason == "the truth is none"
    assert (figures.mark, figures.num_with_mark, figures.num_boxed) == (r"\boxed{...}", 1, 1)
    assert (figures.num_blank, figures.num_same_groups) == (2, 1)
    assert (figures.tokens_mean, figures.tokens_p90) == ((10 + MAX_TOKENS + 20 + 10) / 4, MAX_TOKENS)
    assert (figures.num_cut_off, figures.num_out_of_time, figures.cut_off_share) == (4, 0, 0.2)
    assert figures.engine_seconds == pytest.approx(16 * 0.5)
    assert figures.scoring_seconds == pytest.approx(16 * 0.01)
    assert figures.generating_seconds == 5.0


def test_a_source_without_groups_has_figures_too() -> None:
    figures = compute_figures("sums", [])
    assert (figures.num_groups, figures.mixed_share, figures.reward_mean, figures.tokens_p90) == (0, 0.0, None, 0)


def test_what_took_too_long_is_told_from_what_was_too_long() -> None:
    slow = make_group([0.0, 1.0], num_tokens=MAX_TOKENS - 1, finish_reason=FinishReason.LENGTH)
    assert compute_figures("sums", [slow]).num_out_of_time == 2


def test_components_of_one_name_are_told_apart_and_shadows_left_out() -> None:
    second = RewardTerm(id="math-2", verifier="math", version="2", weights={"accuracy": 0.5})
    shadow = RewardTerm(id="brief", verifier="brief", version="1", weights={"accuracy": 1.0}, mode=TermMode.SHADOW)
    prompt = make_prompt(size=2, terms=(TERM, second, shadow))
    verdicts = (
        make_verdict({"accuracy": 1.0, "format": 0.0}),
        make_verdict({"accuracy": 0.5}, term=second),
        make_verdict(None, term=shadow, status=Status.ERROR, detail="it is broken"),
    )
    answers = tuple(
        JudgedAnswer(rollout=make_rollout(prompt, index), verdicts=verdicts, reward=0.8) for index in range(2)
    )
    figures = compute_figures("sums", [JudgedGroup(prompt=prompt, answers=answers)])
    assert {name: each.mean for name, each in figures.components.items()} == {
        "math.accuracy": 1.0, "math-2.accuracy": 0.5
    }  # fmt: skip
    assert figures.unscored == {}


@pytest.mark.parametrize(("values", "expected"), [([7], 7), ([1, 2], 2), (list(range(1, 101)), 90)])
def test_the_percentile_is_a_value_that_was_seen(values: list[int], expected: int) -> None:
    assert percentile(values, 0.9) == expected


def test_the_pace_replaces_dropped_groups_by_others_of_the_mix() -> None:
    half = compute_figures("a", [make_group([0.0, 1.0], number=0), make_group([0.0, 0.0], number=1)])
    whole = compute_figures("b", [make_group([0.0, 1.0], number=0)])
    pace = compute_pace([half, whole], {"a": 3.0, "b": 1.0}, groups_per_step=5, max_running=2)
    assert pace is not None
    assert pace.kept_share == pytest.approx(0.75 * 0.5 + 0.25)
    assert pace.generated_groups_per_step == pytest.approx(8)
    # A group is two answers of half a second, and two are generated at once.
    assert pace.seconds_per_step == pytest.approx(8 * 0.5)
    assert pace.steps_per_hour == pytest.approx(900)


def test_the_pace_counts_no_more_places_than_there_were_answers() -> None:
    figures = compute_figures("a", [make_group([0.0, 1.0])])
    pace = compute_pace([figures], {"a": 1.0}, groups_per_step=1, max_running=128)
    assert pace is not None
    assert (pace.num_places, pace.seconds_per_step) == (2, 0.5)


def test_without_a_group_that_is_kept_there_is_no_pace() -> None:
    figures = [compute_figures("a", [make_group([0.0, 0.0])]), compute_figures("b", [])]
    weights = {"a": 1.0, "b": 1.0}
    assert compute_pace(figures, weights, groups_per_step=1, max_running=8) is None
    kept = compute_pace(figures, weights, groups_per_step=1, max_running=8, drops_zero_variance=False)
    assert kept is not None
    assert kept.kept_share == 1.0


def test_a_right_and_a_wrong_answer_of_one_mixed_group_are_shown() -> None:
    shown = choose_answers([make_group([0.0, 0.0], number=0), make_group([0.0, 1.0], number=1)])
    assert [each.caption for each in shown] == [Caption.RIGHT, Caption.WRONG]
    assert {each.group.prompt.group.number for each in shown} == {1}


def test_where_all_are_alike_answers_of_two_groups_are_shown() -> None:
    shown = choose_answers([make_group([0.4, 0.4], number=0), make_group([0.4, 0.4], number=1)])
    assert [each.caption for each in shown] == [Caption.BETWEEN, Caption.BETWEEN]
    assert [each.group.prompt.group.number for each in shown] == [0, 1]


def test_without_rewards_one_answer_shows_why() -> None:
    assert [each.caption for each in choose_answers([make_group([None, None])])] == [Caption.UNSCORED]
    assert [each.caption for each in choose_answers([make_failed_group()])] == [Caption.FAILED]
    assert choose_answers([]) == []

"""The mathematics: what adds up must add up, and what is known must be found."""

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tristream.monitoring.queries.why.decomposition import RESIDUAL, SELECTION, Sample, decompose
from tristream.monitoring.queries.why.explanation import Cause
from tristream.monitoring.queries.why.facts import Group, Verdict, Window
from tristream.monitoring.queries.why.ranking import merge_sources
from tristream.monitoring.queries.why.rulers import shapley
from tristream.monitoring.queries.why.series import find_drift, find_shift
from tristream.monitoring.queries.why.source_mix import compare_mix
from tristream.monitoring.queries.why.thresholds import RECORDED, accuracy_at
from tristream.verifiers.contract import Rollout
from tristream.verifiers.scorers.detection import parse_true_boxes, score_detection

WINDOW = Window(step=10, first=5, last=14)
TRUTH = (
    "<answer>\n"
    '[{"bbox_2d": [100, 100, 300, 300], "label": "a"}, {"bbox_2d": [500, 500, 700, 800], "label": "b"}]'
    "\n</answer>"
)


def make_sample(seed: int, *, cut_after: float, gap: float, policy: float) -> Sample:
    """Answers of which some are cut off, more after than before; being cut off costs ``gap``."""
    draw = np.random.default_rng(seed)
    is_after = np.repeat([False, True], 2000)
    is_cut = draw.random(4000) < np.where(is_after, cut_after, 0.1)
    other = draw.normal(size=4000)
    rewards = 0.6 - gap * is_cut + policy * is_after + 0.05 * other + draw.normal(0, 0.1, 4000)
    return Sample(
        features=np.stack([is_cut.astype(float), other], axis=1), rewards=rewards, is_after=is_after,
        groups=np.arange(4000) // 4,
    )  # fmt: skip


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 50), st.floats(0, 1), st.floats(-0.5, 0.5))
def test_effects_add_up_to_the_difference_of_the_means(seed: int, cut_after: float, policy: float) -> None:
    sample = make_sample(seed, cut_after=cut_after, gap=0.4, policy=policy)
    found = decompose(sample, ["truncation", "other"])
    delta = sample.rewards[sample.is_after].mean() - sample.rewards[~sample.is_after].mean()
    assert sum(found.effects.values()) == pytest.approx(delta, abs=1e-6)


def test_an_effect_is_the_shift_of_its_feature_times_what_it_costs() -> None:
    found = decompose(make_sample(1, cut_after=0.5, gap=0.4, policy=-0.1), ["truncation", "other"])
    assert found.effects["truncation"] == pytest.approx(-0.4 * 0.4, abs=0.02)
    assert found.effects[RESIDUAL] == pytest.approx(-0.1, abs=0.02)
    assert abs(found.effects["other"]) < 0.01
    assert 0 < found.errors["truncation"] < 0.02


def test_answers_left_out_by_what_they_are_are_told_from_those_left_out_by_chance() -> None:
    sample = make_sample(1, cut_after=0.1, gap=0.4, policy=0.0)
    is_cut = sample.features[:, 0] == 1
    chosen, chance = sample.rewards.copy(), sample.rewards.copy()
    chosen[sample.is_after & is_cut] = np.nan
    chance[sample.is_after & (np.arange(4000) % 10 == 0)] = np.nan
    for rewards, expected in ((chosen, 0.04), (chance, 0.0)):
        part = Sample(features=sample.features, rewards=rewards, is_after=sample.is_after, groups=sample.groups)
        assert decompose(part, ["truncation", "other"]).effects[SELECTION] == pytest.approx(expected, abs=0.01)


@settings(deadline=None, max_examples=20)
@given(st.lists(st.floats(-1, 1), min_size=8, max_size=8))
def test_shapley_values_add_up_and_players_that_do_the_same_have_the_same(values: list[float]) -> None:
    players = ["a", "b", "c"]
    sets = [(), ("a",), ("b",), ("a", "b"), ("c",), ("a", "c"), ("b", "c"), ("a", "b", "c")]
    game = dict(zip(sets, values, strict=True)) | {(): 0.0}
    assert sum(shapley(players, game).values()) == pytest.approx(game["a", "b", "c"], abs=1e-9)
    game |= {("b",): game["a",], ("b", "c"): game["a", "c"]}
    alike = shapley(players, game)
    assert alike["a"] == pytest.approx(alike["b"])


def jittered(seed: int) -> str:
    """Some of the true boxes, moved, and perhaps one too many."""
    draw = random.Random(seed)
    boxes = [([100, 100, 300, 300], "a"), ([500, 500, 700, 800], "b"), ([10, 10, 50, 50], "a")]
    items = [
        f'{{"bbox_2d": {[side + draw.randint(-9, 9) for side in box]}, "label": "{label}"}}'
        for box, label in draw.sample(boxes, draw.randint(1, 3))
    ]
    return f"<answer>\n[{', '.join(items)}]\n</answer>"


@pytest.mark.parametrize(
    "ratios", [None, {"iou_max_label_first": 0.6, "iou_completeness": 0.5, "map": 0.4, "map50": 0.2}]
)
def test_detection_at_another_threshold_is_what_the_verifier_says_there(ratios: dict[str, float] | None) -> None:
    differing = 0
    for seed in range(40):
        rollout = Rollout(text=jittered(seed), truth=parse_true_boxes(TRUTH))
        said = {at: score_detection(rollout, threshold=at, det_reward_ratio=ratios) for at in (*RECORDED, 0.85)}
        for own, other in ((0.85, 0.95), (0.95, 0.99), (0.99, 0.5)):
            verdict = Verdict(
                term_id="d", verifier="detection", version="2", status="scored", components=said[own].components,
                metrics=said[own].metrics, threshold=own, ratios=ratios or {},
            )  # fmt: skip
            assert accuracy_at(verdict, other) == pytest.approx(said[other].components["accuracy"])
            differing += said[own].components["accuracy"] != said[other].components["accuracy"]
        assert accuracy_at(verdict, 0.85) is None, "it is recorded nowhere"
    assert differing > 20


def make_group(number: int, step: int, source: str, rewards: list[float], num_rollouts: int = 4) -> Group:
    return Group(
        number=number, step=step, source=source, sample_id=str(number), truth=0, max_tokens=1, fingerprint="",
        fate="trained", reason="", rewards=rewards, num_rollouts=num_rollouts,
    )  # fmt: skip


def test_the_mix_and_the_sources_own_changes_add_up() -> None:
    draw = random.Random(1)
    groups = [
        make_group(number, step, source, [draw.random() * (1 if source == "easy" else 0.3) for _ in range(4)])
        for number, (step, source) in enumerate(
            [(6, "easy")] * 30 + [(6, "hard")] * 10 + [(12, "easy")] * 10 + [(12, "hard")] * 25 + [(12, "new")] * 5
        )
    ]
    mix = compare_mix(groups, WINDOW)

    def mean(step: int, source: str = "") -> float | None:
        rewards = [r for g in groups if g.step == step and source in ("", g.source) for r in g.rewards]
        return sum(rewards) / len(rewards) if rewards else None

    own = {name: (mean(12, name) or 0) - (mean(6, name) or 0) for name in ("easy", "hard")}
    before, after = mean(6), mean(12)
    assert before is not None
    assert after is not None
    assert mix.delta + sum(mix.weights[name] * change for name, change in own.items()) == pytest.approx(after - before)
    assert mix.is_grave
    assert mix.delta < -0.05


def test_rollouts_that_are_left_out_change_the_mix_by_no_fault_of_the_mix() -> None:
    groups = [make_group(n, 6 + 6 * (n // 20), "easy", [1.0] * 4) for n in range(40)]
    groups += [make_group(100 + n, 6, "hard", [0.0] * 4) for n in range(20)]
    groups += [make_group(200 + n, 12, "hard", [0.0] * 1) for n in range(20)]
    mix = compare_mix(groups, WINDOW)
    assert mix.delta == pytest.approx(0)
    assert mix.left_out == {"hard": pytest.approx(0.8 - 0.5)}
    assert not mix.is_seen


def test_a_shift_is_told_from_a_trend() -> None:
    trend = [(step, 0.02 * step) for step in range(40)]
    shifted = [(step, value - 0.3 * (step >= 30)) for step, value in trend]
    noise = random.Random(2)
    for points, expected in ((trend, 0.0), (shifted, -0.3)):
        noisy = [(step, value + noise.gauss(0, 0.02)) for step, value in points]
        shift = find_shift(noisy, 30)
        assert shift is not None
        assert shift.size == pytest.approx(expected, abs=0.06)
        assert (abs(shift.z) > 6) is (expected != 0)
    drift = find_drift(trend)
    assert drift is not None
    assert drift.slope == pytest.approx(0.02)


def test_one_kind_that_stands_out_in_several_sources_is_one_cause() -> None:
    def cause(source: str, delta: float, *, stands_out: bool = True) -> Cause:
        return Cause(
            kind="truncation", source=source, title="truncation", share=0, delta=delta, error=0.03,
            stands_out=stands_out, detail=source,
        )  # fmt: skip

    merged = merge_sources([cause("a", -0.1), cause("b", -0.2), cause("c", 0.1), cause("d", -0.1, stands_out=False)])
    assert [one.source for one in merged] == ["", "c", "d"]
    assert [one.delta for one in merged] == pytest.approx([-0.3, 0.1, -0.1])
    assert merged[0].error == pytest.approx(0.03 * 2**0.5)

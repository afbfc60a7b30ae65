"""The same numbers from every ZeRO stage, on one rank or two, packed or not, however many micro-batches there are.

A program of its own, on so many ranks, trains three steps in each way: five groups, then one group for all ranks,
then groups of uneven size without images, one of whose answers is empty. The vision tower is trained, so that
ranks without images must still take part in its gradients.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pytest

from ranks import run_ranks
from tristream.learner.training.deepspeed_engine import require_equal_collectives
from tristream.runtime.errors import UserError

RANK_PROGRAM = """
import json, random, sys
from dataclasses import replace
from pathlib import Path
import torch
from training_groups import make_given, make_group, make_outcome, make_rollout, sampled_as, wrap_rollouts
from tristream.config.learner import LearnerSection
from tristream.learner.algorithms.registry import make_algorithm
from tristream.learner.outcomes import advantage_by_rollout, with_advantages
from tristream.learner.training.deepspeed_engine import TrainingEngine
from tristream.learner.training.distributed import gather_rows, start_process_group
from tristream.learner.training.packing import pack_groups
from tristream.learner.training.train_step import BatchSize, train_step
from tristream.learner.training.trained_policy import load_policy
from tristream.policy.images import ImageLoader


def make_step(generator, step):
    if step == 1:
        return [make_group(generator, n, size=4, num_images=1, run="zero", num_turns=2) for n in range(5)]
    if step == 2:
        return [make_group(generator, 5, size=6, num_images=2, run="zero")]
    uneven = [make_group(generator, n, size=size, num_images=0, run="zero") for n, size in ((6, 7), (7, 2), (8, 3))]
    empty = make_rollout(7, [make_given(generator), sampled_as([])])
    return [wrap_rollouts(6, [*uneven[0].rollouts, empty], "zero"), *uneven[1:]]


def train(case, model, rank, world_size):
    settings = LearnerSection(
        learning_rate=1e-2, zero_stage=case["stage"], max_grad_norm=0.5, weight_decay=0.1, epsilon=1e-2,
        modules=[{"prefix": "model.visual.", "learning_rate_scale": 0.5}], decays_vectors=False,
    )
    algorithm = make_algorithm(settings.algorithm)
    policy = load_policy(model, precision=case["precision"], freeze=(), logprob_chunk_tokens=8)
    engine = TrainingEngine(policy, settings, precision=case["precision"])
    loader = ImageLoader(model, lambda image: image.data)
    reports = []
    for step in (1, 2, 3):
        generator = random.Random(step)
        groups = make_step(generator, step)
        rollouts = [rollout for group in groups for rollout in group.rollouts]
        size = BatchSize(num_tokens=sum(r.num_sampled_tokens for r in rollouts), num_rollouts=len(rollouts))
        outcomes = [make_outcome(generator, group, step) for group in groups]
        advantages = advantage_by_rollout(with_advantages(outcomes, algorithm.advantages))
        if case["spoils"] and step == 2:
            advantages = dict.fromkeys(advantages, float("nan"))
        images = {image.sha256: loader.load(image) for rollout in rollouts for image in rollout.images}
        micro_batches = pack_groups(
            groups[rank::world_size], images, advantages, case["num_micro_batches"], policy.packing_rules()
        )
        done = train_step(engine, micro_batches, algorithm, step=step, size=size)
        weights = engine.full_weights()
        assert bool(weights) == (rank == 0)
        statistics = sorted(row[:6] for row in gather_rows(done.statistics).tolist())
        norms = {name: float(weight.double().norm()) for name, weight in weights.items()}
        probe = "model.language_model.layers.0.mlp.up_proj.weight"
        reports.append(
            {
                "metrics": done.metrics,
                "layers": done.layer_grad_norms,
                "norm": sum(norm**2 for norm in norms.values()) ** 0.5,
                "probe": weights[probe].flatten()[:50].tolist() if weights else [],
                "rollouts": [row[:2] for row in statistics],
                "logprobs": [row[2] for row in statistics],
            }
        )
    engine.close()
    return reports


model, result, cases = sys.argv[1:]
torch.set_num_threads(1)
rank, world_size = start_process_group()
reports = [train(case, Path(model), rank, world_size) for case in json.loads(cases)]
if rank == 0:
    Path(result).write_text(json.dumps(reports))
torch.distributed.destroy_process_group()
"""

Report = dict[str, Any]
"""What one step did."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One way to train the three steps."""

    stage: int
    num_micro_batches: int
    precision: str = "fp32"
    spoils: bool = False
    """Whether the second step's advantages are no numbers."""


EACH_ALONE = 20
"""As many micro-batches as the largest step has rollouts: each is then computed by itself."""
PLAIN = Case(stage=0, num_micro_batches=1)
WAYS = [Case(stage=stage, num_micro_batches=number) for stage in (0, 1, 2) for number in (1, 7, EACH_ALONE)]
BF16_WAYS = [
    Case(stage=stage, num_micro_batches=number, precision="bf16") for stage, number in ((0, 1), (1, 7), (2, 7))
]


def train_with(folder: Path, model: Path, cases: list[Case], *, num_ranks: int) -> list[list[Report]]:
    """The reports of each step of each case, from processes of their own."""
    program, result = folder / "rank.py", folder / f"result-{num_ranks}.json"
    program.write_text(RANK_PROGRAM, encoding="utf-8")
    run_ranks(program, str(model), str(result), json.dumps([asdict(case) for case in cases]), num_ranks=num_ranks)
    reports: list[list[Report]] = json.loads(result.read_text(encoding="utf-8"))
    return reports


def shared_metrics(report: Report) -> dict[str, float]:
    """The metrics that do not say how it was computed: a unit that is split repeats its prefix."""
    return {name: value for name, value in report["metrics"].items() if name not in ("model_tokens", "attended_tokens")}


@pytest.fixture(scope="module")
def plain_reports(vision_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Report]:
    """Three steps without ZeRO, on one rank, in one micro-batch."""
    return train_with(tmp_path_factory.mktemp("plain"), vision_checkpoint, [PLAIN], num_ranks=1)[0]


def assert_same(reports: list[Report], expected: list[Report], where: str) -> None:
    for step, (one, other) in enumerate(zip(expected, reports, strict=True), start=1):
        place = f"step {step} of {where}"
        assert shared_metrics(other) == pytest.approx(shared_metrics(one), rel=1e-5, abs=1e-6), place
        assert other["layers"] == pytest.approx(one["layers"], rel=1e-5, abs=1e-6), place
        assert other["norm"] == pytest.approx(one["norm"], rel=1e-6), place
        assert other["probe"] == pytest.approx(one["probe"], rel=1e-5, abs=1e-6), place
        assert other["rollouts"] == one["rollouts"], place
        assert other["logprobs"] == pytest.approx(one["logprobs"], rel=1e-5, abs=1e-5), place


@pytest.mark.slow
@pytest.mark.parametrize("num_ranks", [1, 2])
def test_every_way_to_split_a_batch_gives_the_same_numbers(
    vision_checkpoint: Path, plain_reports: list[Report], tmp_path: Path, num_ranks: int
) -> None:
    cases = [*WAYS, Case(stage=3, num_micro_batches=7)] if num_ranks == 1 else WAYS
    for case, reports in zip(cases, train_with(tmp_path, vision_checkpoint, cases, num_ranks=num_ranks), strict=True):
        assert_same(reports, plain_reports, f"{case} on {num_ranks} ranks")


@pytest.mark.slow
def test_bf16_adds_gradients_up_in_fp32_so_that_splitting_changes_less_than_a_thousandth(
    vision_checkpoint: Path, tmp_path: Path
) -> None:
    one, two = (train_with(tmp_path, vision_checkpoint, BF16_WAYS, num_ranks=num_ranks) for num_ranks in (1, 2))
    expected_first, *_, expected_last = one[0]
    for first, *_, last in (*one, *two):
        for name in ("loss", "grad_norm", "entropy", "mean_logprob"):
            assert first["metrics"][name] == pytest.approx(expected_first["metrics"][name], rel=1e-3), name
        assert last["norm"] == pytest.approx(expected_last["norm"], rel=1e-3)
        assert last["metrics"]["entropy"] == pytest.approx(expected_last["metrics"]["entropy"], rel=1e-3)


@pytest.mark.slow
def test_an_update_whose_gradient_is_not_finite_is_left_out(vision_checkpoint: Path, tmp_path: Path) -> None:
    cases = [Case(stage=stage, num_micro_batches=2, spoils=True) for stage in (0, 1, 2, 3)]
    for first, spoilt, third in train_with(tmp_path, vision_checkpoint, cases, num_ranks=1):
        assert spoilt["metrics"]["skipped_updates"] == 1.0
        assert spoilt["probe"] == first["probe"]
        assert spoilt["norm"] == first["norm"]
        assert third["metrics"]["skipped_updates"] == 0.0
        assert third["probe"] != first["probe"]


def test_zero_3_over_ranks_is_refused_and_all_else_is_taken() -> None:
    with pytest.raises(UserError, match="ZeRO 3 runs on one rank only"):
        require_equal_collectives(3, 2)
    require_equal_collectives(3, 1)
    require_equal_collectives(2, 8)

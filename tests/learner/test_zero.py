"""ZeRO 0 to 3 on one rank and 0 to 2 on two give the same numbers; each case runs in processes of its own."""

import json
from pathlib import Path

import pytest

from ranks import run_ranks
from tristream.learner.training.deepspeed_engine import require_equal_collectives
from tristream.runtime.errors import UserError

RANK_PROGRAM = """
import json, random, sys
from pathlib import Path
import torch
from training_groups import make_group, make_outcome
from tristream.config.learner import LearnerSection
from tristream.learner.algorithms.registry import make_algorithm
from tristream.learner.outcomes import advantage_by_rollout, with_advantages
from tristream.learner.training.deepspeed_engine import TrainingEngine
from tristream.learner.training.distributed import gather_rows, start_process_group
from tristream.learner.training.packing import pack_groups
from tristream.learner.training.train_step import BatchSize, train_step
from tristream.learner.training.trained_policy import load_policy
from tristream.policy.images import ImageLoader

model, result, stage, num_micro_batches, spoil = sys.argv[1:]
torch.set_num_threads(1)
rank, world_size = start_process_group()
settings = LearnerSection(learning_rate=1e-2, zero_stage=int(stage), max_grad_norm=0.5, weight_decay=0.1)
algorithm = make_algorithm(settings.algorithm)
policy = load_policy(Path(model), precision="fp32", freeze=["model.visual."], logprob_chunk_tokens=8)
engine = TrainingEngine(policy, settings, precision="fp32")
loader = ImageLoader(Path(model), lambda image: image.data)
reports = []
for step in (1, 2, 3):
    generator = random.Random(step)
    groups = [make_group(generator, n, size=4, num_images=1, run="zero", num_turns=2) for n in range(5)]
    rollouts = [rollout for group in groups for rollout in group.rollouts]
    size = BatchSize(num_tokens=sum(r.num_sampled_tokens for r in rollouts), num_rollouts=len(rollouts))
    outcomes = [make_outcome(generator, group, step) for group in groups]
    advantages = advantage_by_rollout(with_advantages(outcomes, algorithm.advantages))
    if spoil == "1" and step == 2:
        advantages = dict.fromkeys(advantages, float("nan"))
    images = {image.sha256: loader.load(image) for rollout in rollouts for image in rollout.images}
    micro_batches = pack_groups(
        groups[rank::world_size], images, advantages, int(num_micro_batches), policy.packing_rules()
    )
    done = train_step(engine, micro_batches, algorithm, step=step, size=size, settings=settings)
    weights = engine.full_weights()
    norm = sum(float(w.double().square().sum()) for w in weights.values()) ** 0.5
    probe = weights["model.language_model.layers.0.mlp.up_proj.weight"].flatten()[:50].tolist()
    statistics = sorted(gather_rows(done.statistics).tolist())
    reports.append(
        {
            "metrics": done.metrics,
            "layers": done.layer_grad_norms,
            "norm": norm,
            "probe": probe,
            "rollouts": [row[:2] for row in statistics],
            "logprobs": [row[2] for row in statistics],
        }
    )
if rank == 0:
    Path(result).write_text(json.dumps(reports))
torch.distributed.destroy_process_group()
"""


def train_with(
    folder: Path, model: Path, *, stage: int, num_ranks: int, num_micro_batches: int, spoil: bool = False
) -> list[dict[str, object]]:
    program, result = folder / "rank.py", folder / f"result-{stage}-{num_ranks}-{num_micro_batches}.json"
    program.write_text(RANK_PROGRAM, encoding="utf-8")
    arguments = [str(model), str(result), str(stage), str(num_micro_batches), "1" if spoil else "0"]
    run_ranks(program, *arguments, num_ranks=num_ranks)
    reports: list[dict[str, object]] = json.loads(result.read_text(encoding="utf-8"))
    return reports


def shared_metrics(report: dict[str, object]) -> dict[str, float]:
    """All metrics but one: a group that is split repeats its prefix, so the model sees more tokens."""
    metrics = report["metrics"]
    assert isinstance(metrics, dict)
    return {name: value for name, value in metrics.items() if name != "model_tokens"}


@pytest.fixture(scope="module")
def plain_reports(vision_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, object]]:
    """Three steps without ZeRO, on one rank, in one micro-batch."""
    return train_with(tmp_path_factory.mktemp("plain"), vision_checkpoint, stage=0, num_ranks=1, num_micro_batches=1)


@pytest.mark.slow
@pytest.mark.parametrize(("stage", "num_ranks"), [(1, 1), (3, 1), (0, 2), (2, 2)])
def test_every_stage_and_number_of_ranks_gives_the_same_numbers(
    vision_checkpoint: Path, plain_reports: list[dict[str, object]], tmp_path: Path, stage: int, num_ranks: int
) -> None:
    actual = train_with(tmp_path, vision_checkpoint, stage=stage, num_ranks=num_ranks, num_micro_batches=2)
    for step, (one, other) in enumerate(zip(plain_reports, actual, strict=True)):
        tolerance = 1e-5 if step == 0 else 1e-3
        assert shared_metrics(other) == pytest.approx(shared_metrics(one), rel=tolerance, abs=1e-5), step
        assert other["layers"] == pytest.approx(one["layers"], rel=tolerance, abs=1e-5), step
        assert other["norm"] == pytest.approx(one["norm"], rel=1e-5), step
        assert other["probe"] == pytest.approx(one["probe"], abs=1e-4), step
        assert other["rollouts"] == one["rollouts"], step
        assert other["logprobs"] == pytest.approx(one["logprobs"], rel=1e-3), step


@pytest.mark.slow
@pytest.mark.parametrize("stage", [0, 2, 3])
def test_an_update_whose_gradient_is_not_finite_is_left_out(
    vision_checkpoint: Path, tmp_path: Path, stage: int
) -> None:
    first, spoilt, third = train_with(
        tmp_path, vision_checkpoint, stage=stage, num_ranks=1, num_micro_batches=2, spoil=True
    )
    assert isinstance(spoilt["metrics"], dict)
    assert isinstance(third["metrics"], dict)
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

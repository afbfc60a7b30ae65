"""A checkpoint of one number of ranks goes on with another: the same steps then give the same weights."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from ranks import run_ranks
from tristream.learner.checkpoints import restore_rng
from tristream.learner.training.other_world_size import find_partitions

RANK_PROGRAM = """
import json, random, sys
from pathlib import Path
import torch
from training_groups import make_group, make_outcome
from tristream.config.learner import LearnerSection
from tristream.learner.algorithms.registry import make_algorithm
from tristream.learner.outcomes import advantage_by_rollout, with_advantages
from tristream.learner.training.deepspeed_engine import TrainingEngine
from tristream.learner.training.distributed import start_process_group
from tristream.learner.training.packing import pack_groups
from tristream.learner.training.train_step import BatchSize, train_step
from tristream.learner.training.trained_policy import load_policy

model, folder, result, cases = sys.argv[1:]
torch.set_num_threads(1)
rank, world_size = start_process_group()


def run(stage, precision, load_from, save_to, steps):
    settings = LearnerSection(
        learning_rate=1e-2, zero_stage=stage, weight_decay=0.1, epsilon=1e-2, max_grad_norm=0.5, decays_vectors=False
    )
    policy = load_policy(Path(model), precision=precision, freeze=[], logprob_chunk_tokens=8)
    engine = TrainingEngine(policy, settings, precision=precision)
    if load_from:
        engine.load_state(Path(folder) / load_from)
    algorithm = make_algorithm(settings.algorithm)
    for step in steps:
        generator = random.Random(step)
        groups = [make_group(generator, n, size=4, num_images=0, run="sizes") for n in range(4)]
        rollouts = [rollout for group in groups for rollout in group.rollouts]
        size = BatchSize(num_tokens=sum(r.num_sampled_tokens for r in rollouts), num_rollouts=len(rollouts))
        outcomes = [make_outcome(generator, group, step) for group in groups]
        advantages = advantage_by_rollout(with_advantages(outcomes, algorithm.advantages))
        micro_batches = pack_groups(groups[rank::world_size], {}, advantages, 1, policy.packing_rules())
        train_step(engine, micro_batches, algorithm, step=step, size=size)
    if save_to:
        (Path(folder) / save_to).mkdir(exist_ok=True)
        engine.save_state(Path(folder) / save_to)
    weights = {name: weight.float().flatten()[:40].tolist() for name, weight in engine.full_weights().items()}
    engine.close()
    return weights


done = [run(**case) for case in json.loads(cases)]
if rank == 0:
    Path(result).write_text(json.dumps(done))
torch.distributed.destroy_process_group()
"""

Weights = dict[str, list[float]]


def run_cases(folder: Path, model: Path, cases: list[dict[str, Any]], *, num_ranks: int) -> list[Weights]:
    program, result = folder / "rank.py", folder / f"result-{num_ranks}.json"
    program.write_text(RANK_PROGRAM, encoding="utf-8")
    run_ranks(program, str(model), str(folder), str(result), json.dumps(cases), num_ranks=num_ranks)
    done: list[Weights] = json.loads(result.read_text(encoding="utf-8"))
    return done


def case(stage: int, precision: str, *, load_from: str = "", save_to: str = "", steps: list[int]) -> dict[str, Any]:
    return {"stage": stage, "precision": precision, "load_from": load_from, "save_to": save_to, "steps": steps}


@pytest.mark.slow
@pytest.mark.parametrize(("first", "then"), [(2, 1), (1, 2)])
def test_a_run_goes_on_with_another_number_of_ranks_as_if_nothing_had_changed(
    text_checkpoint: Path, tmp_path: Path, first: int, then: int
) -> None:
    ways = [(0, "fp32"), (2, "fp32"), (1, "bf16")]
    begin = [case(stage, kind, save_to=f"{stage}-{kind}", steps=[1, 2]) for stage, kind in ways]
    go_on = [case(stage, kind, load_from=f"{stage}-{kind}", steps=[3, 4]) for stage, kind in ways]
    whole = run_cases(tmp_path, text_checkpoint, [*begin, *go_on], num_ranks=first)[len(ways) :]
    resumed = run_cases(tmp_path, text_checkpoint, go_on, num_ranks=then)
    # Without the optimizer's state the third step is another one.
    forgetful = run_cases(tmp_path, text_checkpoint, [case(0, "fp32", steps=[3, 4])], num_ranks=1)[0]
    for (stage, kind), expected, actual in zip(ways, whole, resumed, strict=True):
        tolerance = 1e-5 if kind == "fp32" else 5e-3
        assert actual.keys() == expected.keys()
        for name, values in expected.items():
            assert actual[name] == pytest.approx(values, abs=tolerance), (stage, kind, name)
        assert any(forgetful[name] != pytest.approx(values, abs=tolerance) for name, values in expected.items())


def test_the_parts_of_an_optimizer_are_found_in_the_order_of_their_ranks(tmp_path: Path) -> None:
    for rank in (10, 2, 0):
        (tmp_path / f"bf16_zero_pp_rank_{rank}_mp_rank_00_optim_states.pt").touch()
    (tmp_path / "mp_rank_00_model_states.pt").touch()
    assert [path.name.split("_")[4] for path in find_partitions(tmp_path)] == ["0", "2", "10"]


def test_a_rank_that_wrote_no_checkpoint_keeps_its_random_state(tmp_path: Path) -> None:
    torch.manual_seed(7)
    before = torch.get_rng_state()
    restore_rng(tmp_path, 3)
    assert torch.equal(torch.get_rng_state(), before)

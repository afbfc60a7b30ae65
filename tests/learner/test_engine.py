"""The engine: rates of modules, checkpoints with several parameter groups, copies of weights."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from training_groups import advantages_of, make_groups
from tristream.config.learner import LearnerSection
from tristream.learner.training.deepspeed_config import LARGEST_BUCKET, SMALLEST_BUCKET, make_deepspeed_config
from tristream.learner.training.deepspeed_engine import TrainingEngine
from tristream.learner.training.distributed import start_process_group
from tristream.learner.training.packing import pack_groups
from tristream.learner.training.trained_policy import load_policy
from tristream.runtime.errors import UserError

HEAD = "lm_head.weight"
EMBEDDING = "model.embed_tokens.weight"


@contextmanager
def engine_for(model: Path, freeze: tuple[str, ...] = (), **settings: object) -> Iterator[TrainingEngine]:
    start_process_group()
    policy = load_policy(model, precision="fp32", freeze=freeze, logprob_chunk_tokens=64)
    engine = TrainingEngine(policy, LearnerSection.model_validate(settings), precision="fp32")
    try:
        yield engine
    finally:
        engine.close()


def train(engine: TrainingEngine, step: int, *, learning_rate: float = 1e-2) -> dict[str, Tensor]:
    """Raise the log-probabilities of random answers once; returns the weights."""
    groups = make_groups(2, num_images=0, seed=step)
    (micro_batch,) = pack_groups(groups, {}, advantages_of(groups), 1, engine.policy.packing_rules())
    logprobs, _ = engine.forward(micro_batch)
    engine.backward(-logprobs.mean(), is_last=True)
    engine.step(learning_rate, skip=False)
    return dict(engine.full_weights())


@pytest.mark.parametrize("zero_stage", [0, 2])
def test_a_module_moves_by_its_own_share_of_the_learning_rate(text_checkpoint: Path, zero_stage: int) -> None:
    modules = [{"prefix": HEAD, "learning_rate_scale": 0.25}]
    with engine_for(text_checkpoint, zero_stage=zero_stage, modules=modules, epsilon=1e-12) as engine:
        before = dict(engine.full_weights())
        after = train(engine, 1)
    # AdamW's first step moves each parameter that has a gradient by its learning rate.
    for name, expected in ((HEAD, 0.0025), ("model.layers.0.mlp.up_proj.weight", 0.01)):
        assert float((after[name] - before[name]).abs().max()) == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("zero_stage", [0, 1, 2])
def test_a_resume_with_several_parameter_groups_goes_on_as_if_nothing_had_been(
    text_checkpoint: Path, tmp_path: Path, zero_stage: int
) -> None:
    settings: dict[str, Any] = {
        "zero_stage": zero_stage,
        "weight_decay": 0.1,
        "decays_vectors": False,
        "modules": [{"prefix": "model.layers.1.", "learning_rate_scale": 0.5}],
    }
    with engine_for(text_checkpoint, **settings) as engine:
        train(engine, 1)
        engine.save_state(tmp_path)
        expected = train(engine, 2)
    with engine_for(text_checkpoint, **settings) as engine:
        engine.load_state(tmp_path)
        actual = train(engine, 2)
    for name, weight in expected.items():
        assert torch.equal(actual[name], weight), name


def test_a_resume_takes_the_rates_and_decays_of_the_run_file(text_checkpoint: Path, tmp_path: Path) -> None:
    with engine_for(text_checkpoint, weight_decay=0.5) as engine:
        before = train(engine, 1)
        engine.save_state(tmp_path)
    moved = []
    for decay in (0.0, 0.5):
        with engine_for(text_checkpoint, weight_decay=decay) as engine:
            engine.load_state(tmp_path)
            moved.append(train(engine, 2)[HEAD])
    torch.testing.assert_close(moved[0] - moved[1], 1e-2 * 0.5 * before[HEAD], atol=1e-7, rtol=1e-4)


def test_a_resume_with_other_parameter_groups_is_refused(text_checkpoint: Path, tmp_path: Path) -> None:
    with engine_for(text_checkpoint) as engine:
        engine.save_state(tmp_path)
    (names,) = json.loads((tmp_path / "parameter-groups.json").read_text(encoding="utf-8"))
    assert HEAD in names
    modules = [{"prefix": HEAD, "learning_rate_scale": 0.25}]
    changes: tuple[dict[str, Any], ...] = ({"modules": modules}, {"freeze": (EMBEDDING,)})
    for settings in changes:
        with (
            engine_for(text_checkpoint, **settings) as engine,
            pytest.raises(UserError, match="grouped in another way"),
        ):
            engine.load_state(tmp_path)


def test_frozen_weights_are_copied_once_and_trained_ones_each_time(text_checkpoint: Path) -> None:
    with engine_for(text_checkpoint, freeze=(EMBEDDING,)) as engine:
        first = dict(engine.full_weights())
        copied = first[HEAD].clone()
        second = train(engine, 1)
        assert second[EMBEDDING] is first[EMBEDDING]
        assert torch.equal(first[HEAD], copied)
        assert not torch.equal(second[HEAD], copied)


def test_buckets_grow_with_the_model_up_to_a_bound() -> None:
    sizes = []
    for num_trained in (10_000, 50_000_000, 7_000_000_000):
        config = make_deepspeed_config(
            LearnerSection(), precision="bf16", num_trained=num_trained, overlaps_communication=True
        )
        sizes.append(config["zero_optimization"]["reduce_bucket_size"])
    assert sizes == [SMALLEST_BUCKET, 50_000_000, LARGEST_BUCKET]


def test_a_rate_that_falls_needs_to_know_how_far(text_checkpoint: Path) -> None:
    with (
        pytest.raises(ValueError, match="needs the number of steps"),
        engine_for(text_checkpoint, learning_rate_schedule="cosine"),
    ):
        pass

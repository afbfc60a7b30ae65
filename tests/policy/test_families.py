"""Which models are trained and sampled from as they compute themselves, family by family, and which are refused."""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from model_families import REFUSED, TAKEN, Family, score_by_itself
from tristream.learner.training.packing import pack_groups
from tristream.learner.training.policy_check import compare, make_probe_groups, score_packed
from tristream.learner.training.sequences import RolloutKey, make_sequences
from tristream.learner.training.trained_policy import TrainedPolicy, load_policy
from tristream.policy.images import ProcessedImage
from tristream.policy.loading import load_model, reason_to_refuse
from tristream.producer.engines.transformers.decoding_policy import DecodingPolicy
from tristream.producer.engines.transformers.policy_check import NUM_TOKENS, make_probe_rows, score_decoded
from tristream.runtime.errors import UserError
from tristream.wire.batches import TrainingGroup

TOLERANCE_NATS = 1e-5
GRADIENT_TOLERANCE = 1e-4
"""Norm of the difference of two gradients, as a share of the norm of one."""
WITH_GRADIENTS = ("llama", "gemma3_text", "qwen3_moe", "gpt2", "qwen2_5_vl", "qwen3_vl")
TABLE = Path(__file__).parents[2] / "docs" / "models.md"
WRITE_TABLE = "TRISTREAM_WRITE_TABLES"
NUMBER = re.compile(r"\d\.\d?e-\d\d")

Sequences = dict[RolloutKey, tuple[list[int], Tensor, list[ProcessedImage]]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """How far one family is from itself, in nats."""

    packed: float
    decoded: float


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of each family that is taken."""
    path = tmp_path_factory.mktemp("families")
    for family in TAKEN:
        family.write(path)
    return path


@pytest.fixture(scope="module")
def measured(folder: Path) -> dict[str, Measured]:
    """All families, each measured once."""
    return {family.name: measure(family, folder / family.name) for family in TAKEN}


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def load(path: Path, precision: str = "fp32") -> TrainedPolicy:
    return load_policy(path, precision=precision, freeze=(), logprob_chunk_tokens=16)


def sequences_of(
    policy: TrainedPolicy, groups: list[TrainingGroup], images: dict[str, ProcessedImage]
) -> dict[RolloutKey, Any]:
    advantages = dict.fromkeys(keys_of(groups), 0.0)
    rules = policy.packing_rules()
    return {one.key: one for group in groups for one in make_sequences(group, images, advantages, rules)}


def keys_of(groups: list[TrainingGroup]) -> list[RolloutKey]:
    return [RolloutKey(group_number=g.group.number, index=r.index) for g in groups for r in g.rollouts]


def score_sequence(model: Any, sequence: Any) -> Tensor:
    scores = score_by_itself(model, sequence.tokens.tolist(), [placed.image for placed in sequence.images])
    return scores[sequence.sampled_at - 1]


def measure(family: Family, path: Path) -> Measured:
    plain, policy, sampler = family.load(path), load(path), DecodingPolicy(path)
    with torch.no_grad():
        groups, images = make_probe_groups(policy)
        sequences = sequences_of(policy, groups, images)
        packed = {
            key: (scores - score_sequence(plain, sequences[key])).abs().max()
            for key, scores in score_packed(policy, groups, images).items()
        }
        assert set(packed) == set(keys_of(groups))
        rows = make_probe_rows(sampler)
        decoded = [
            (scores - score_by_itself(plain, row.tokens, row.prompt.images)[-NUM_TOKENS:]).abs().max()
            for row, scores in zip(rows, score_decoded(sampler, rows), strict=True)
        ]
    return Measured(packed=float(max(packed.values())), decoded=float(max(decoded)))


@pytest.mark.parametrize("name", [family.name for family in TAKEN])
def test_packed_rollouts_and_sampled_tokens_have_the_models_own_log_probabilities(
    name: str, measured: dict[str, Measured]
) -> None:
    assert measured[name].packed <= TOLERANCE_NATS
    assert measured[name].decoded <= TOLERANCE_NATS


@pytest.mark.parametrize("name", WITH_GRADIENTS)
def test_packed_rollouts_have_the_models_own_gradients(name: str, folder: Path) -> None:
    family = next(family for family in TAKEN if family.name == name)
    policy, plain = load(folder / name).train(), family.load(folder / name)
    groups, images = make_probe_groups(policy)
    advantages = {key: 1.0 + key.index - key.group_number for key in keys_of(groups)}
    for row in pack_groups(groups, images, advantages, 2, policy.packing_rules()):
        logprobs, _ = policy(row)
        torch.autograd.backward((logprobs * row.advantages).sum())
    for key, sequence in sequences_of(policy, groups, images).items():
        torch.autograd.backward(score_sequence(plain, sequence).sum() * advantages[key])
    own, expected = (
        {n: p.grad for n, p in model.named_parameters() if p.grad is not None} for model in (policy.checkpoint, plain)
    )
    assert own.keys() == expected.keys()
    for parameter, gradient in expected.items():
        assert (own[parameter] - gradient).norm() <= GRADIENT_TOLERANCE * max(gradient.norm(), 1e-3), parameter


@pytest.mark.parametrize("family", REFUSED, ids=lambda family: family.name)
def test_what_is_not_computed_is_refused_by_name_on_both_sides(family: Family, tmp_path: Path) -> None:
    config = family.config()
    config.save_pretrained(tmp_path)
    said = rf"\[model\] path = .*: the {family.name} model {re.escape(reason_to_refuse(config))}; take a model of the"
    assert reason_to_refuse(config)
    with pytest.raises(UserError, match=said):
        load(tmp_path)
    with pytest.raises(UserError, match=said):
        DecodingPolicy(tmp_path)


@pytest.mark.parametrize("name", ["gpt2", "qwen3_vl", "qwen3_moe"])
def test_coarser_numbers_are_allowed_their_rounding(name: str, folder: Path) -> None:
    policy = load(folder / name, precision="bf16")
    difference = compare(policy, *make_probe_groups(policy))
    assert difference > TOLERANCE_NATS, "it is not computed in bfloat16"


def test_nothing_is_dropped_in_training_mode(folder: Path) -> None:
    model = load_model(folder / "gpt2", "fp32").train()
    assert model.config.attn_pdrop == 0.1
    tokens = torch.arange(20)[None]
    with torch.no_grad():
        once, again, evaluated = model(tokens).logits, model(tokens).logits, model.eval()(tokens).logits
    assert torch.equal(once, again)
    assert torch.equal(once, evaluated)


def test_the_table_of_models_is_what_was_measured(measured: dict[str, Measured]) -> None:
    table = make_table(measured)
    if os.environ.get(WRITE_TABLE):
        TABLE.write_text(table, encoding="utf-8")
    written = TABLE.read_text(encoding="utf-8")
    assert NUMBER.sub("", written) == NUMBER.sub("", table), f"write it anew: {WRITE_TABLE}=1 pytest {__file__}"
    assert all(float(number) <= TOLERANCE_NATS for number in NUMBER.findall(written))


def make_table(measured: dict[str, Measured]) -> str:
    taken = [
        f"| `{family.name}` | {'text and images' if family.vision else 'text'} | {measured[family.name].packed:.1e} "
        f"| {measured[family.name].decoded:.1e} | {'compared' if family.name in WITH_GRADIENTS else ''} |"
        for family in TAKEN
    ]
    refused = [f"| `{family.name}` | {reason_to_refuse(family.config())} |" for family in REFUSED]
    return PAGE.format(taken="\n".join(taken), refused="\n".join(refused), flag=WRITE_TABLE)


PAGE = """# Models

Producer and learner take and refuse the same models, by one function (`reason_to_refuse` in
`tristream/policy/loading.py`). What a config does not rule out is tried at start, with the real weights:

- the learner packs random rollouts that share prefixes, with further turns and images, into a row; later the first
  batch;
- the transformers engine decodes random rows that share prompts, with images.

The log-probabilities of both are held against the model's own forward pass in transformers, one sequence at a time. If
one of them differs by more than 1e-3 nats in fp32, or if in bf16 they differ on average by more than four times what
two attentions of transformers differ by, the part ends with the name of the model and the first layer that differs.
Dropout is off.

## Taken

Families by their `model_type`, tested with tiny random weights in fp32: the largest difference of a log-probability
from the model's own, in nats, for packed rollouts in the learner and for tokens sampled by the transformers engine, and
whether gradients of packed rollouts were compared. A family that is neither here nor below starts if it passes the
comparison at start.

| family | takes | packed | sampled | gradients |
| --- | --- | --- | --- | --- |
{taken}

Sequences are as long as the model's positions and its sliding window allow.

## Refused

| family | why: it |
| --- | --- |
{refused}

This page is written by `{flag}=1 pytest tests/policy/test_families.py`; tests fail if it says anything else than they
find.
"""

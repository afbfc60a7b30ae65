"""Rollouts of two turns with a calculator between them, from the engine to an update of the weights."""

import asyncio
import math
import re
import threading
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForImageTextToText

from tristream.assembler.assembly import Assembly
from tristream.assembler.facts import prompt_fact, reward_fact, rollout_fact
from tristream.assembler.shards import BuiltBatch, shard
from tristream.config.load import load_run_file
from tristream.config.parts import AssemblerSettings, DispatcherSettings
from tristream.config.run_file import RunFile
from tristream.dispatcher.prompt_making import PromptMaker
from tristream.learner.algorithms.registry import make_algorithm
from tristream.learner.outcomes import advantage_by_rollout, with_advantages
from tristream.learner.training.deepspeed_engine import TrainingEngine
from tristream.learner.training.distributed import start_process_group
from tristream.learner.training.packing import MicroBatch, pack_groups
from tristream.learner.training.sequences import RolloutKey
from tristream.learner.training.train_step import BatchSize, train_step
from tristream.learner.training.trained_policy import load_policy
from tristream.policy.images import ImageLoader, ProcessedImage
from tristream.policy.prompt_encoder import PromptEncoder
from tristream.policy.tokens import excluded_token_ids
from tristream.producer.engines.protocol import WeightsFile
from tristream.producer.engines.registry import make_engine
from tristream.producer.environments.contract import Client, Environment, Sample
from tristream.producer.rollout_running import RolloutRunner
from tristream.runtime.store import BlobStore
from tristream.verifiers import Score, contract
from tristream.verifiers.definition import VerifierDefinition
from tristream.verifiers.pool.tasks import Judgement, Verdict
from tristream.verifiers.pool.truths import Truths
from tristream.verifiers.registry import BUILT_INS
from tristream.verifiers.service.answers import ANSWERS
from tristream.verifiers.service.conversion import to_contract
from tristream.verifiers.service.rewards import make_reward
from tristream.wire.batches import Batch, TrainingRollout
from tristream.wire.codecs.batches import batch_from_message, batch_to_message
from tristream.wire.events import Ledger, Message, Progress, Prompt, Reward, Rollout, Status
from tristream.wire.topics import REWARDS, ROLLOUTS

RUN_FILE = Path(__file__).parents[2] / "examples/digits/run.toml"
NUM_GROUPS = 6
TURN_TOKENS = 12
CALL = re.compile(r"\d+")


def calculator(text: str) -> str:
    """The tool: the square of the first number of what it is told."""
    call = CALL.search(text)
    return f"{call[0]}*{call[0]}={int(call[0]) ** 2}" if call else "no number"


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> RunFile:
    output = tmp_path_factory.mktemp("two-turns")
    keys = [
        f"run.output={output}",
        f"rollout.groups_per_step={NUM_GROUPS}",
        "rollout.group_size=4",
        "rollout.max_tokens=40",
    ]
    return load_run_file(RUN_FILE, keys, environment={})


def calculator_user(images: Mapping[str, bytes]) -> Environment:
    """An environment: after the policy's first answer the calculator has its say, and the picture is shown again.

    Args:
        images: the picture of each sample.
    """

    async def environment(client: Client, sample: Sample) -> None:
        said = await client.answer(max_tokens=TURN_TOKENS)
        client.add("calculator", calculator(said.text))
        client.add("user", sample.messages[0].content, images=[images[sample.sample_id]])
        await client.answer()

    return environment


async def answer_all(settings: RunFile, store: BlobStore, prompts: Sequence[Prompt]) -> list[Rollout]:
    """Rollouts of two turns with the demo's model."""
    encoder = PromptEncoder(settings.model.path)
    engine = make_engine(settings.rollout.engine, settings.model, encoder)
    await engine.update_weights(0, WeightsFile(path=settings.model.path / "model.safetensors"))
    images = {prompt.group.sample_id: store.read_image(prompt.images[0]) for prompt in prompts}
    runner = RolloutRunner(
        store,
        encoder,
        engine,
        environments={source.name: calculator_user(images) for source in settings.sources},
        max_seconds=settings.rollout.max_seconds,
        instance="test",
        say=lambda _: None,
        stop=threading.Event(),
    )
    groups = [await runner.encode(prompt) for prompt in prompts]
    indexes = range(settings.rollout.group_size)
    rollouts = await asyncio.gather(*(runner.run(group, index) for group in groups for index in indexes))
    await engine.close()
    return rollouts


def score(rollout: Rollout) -> list[Reward]:
    """The rewards that count of a rollout, each by a call of its verifier."""
    seen = to_contract(ANSWERS.codec.decode(ROLLOUTS.codec.encode(rollout)))
    return [
        make_reward(
            rollout, term, Verdict(status=Status.SCORED), call(BUILT_INS[term.verifier], seen, term.params_json)
        )
        for term in rollout.reward.terms
        if term.counts
    ]


def call(definition: VerifierDefinition, seen: contract.Rollout, params_json: str) -> Judgement:
    truths = Truths(definition)
    keywords = truths.keywords(params_json)
    score = definition(replace(seen, truth=truths.truth(seen.ground_truth, params_json, keywords)), **keywords)
    assert isinstance(score, Score)
    return Judgement(components={name: value for name, value in score.components.items() if value is not None})


@pytest.fixture(scope="module")
def prompts(settings: RunFile) -> list[Prompt]:
    maker = PromptMaker(DispatcherSettings.of(settings), BlobStore(settings.store.address(settings.run.folder)))
    progress = Progress(step=1, total_steps=settings.run.steps)
    return [maker.training_prompt(number, progress) for number in range(NUM_GROUPS)]


@pytest.fixture(scope="module")
def rollouts(settings: RunFile, prompts: list[Prompt]) -> list[Rollout]:
    store = BlobStore(settings.store.address(settings.run.folder))
    return asyncio.run(answer_all(settings, store, prompts))


@pytest.fixture(scope="module")
def batch(settings: RunFile, prompts: list[Prompt], rollouts: list[Rollout]) -> Batch:
    """What the learner is given of tool users' rollouts, over the wire like everything else."""
    keys = {"assembly": settings.assembly.model_copy(update={"drop_zero_variance": False})}
    assembly = Assembly(AssemblerSettings.of(settings.model_copy(update=keys)))
    assembly.attach(Ledger(step=0), 1, "log")
    assembly.finish_reading()
    for offset, prompt in enumerate(prompts):
        assembly.observe(prompt_fact(prompt), ("prompts", 0, offset), now_seconds=0.0, now_ns=1)
    for offset, rollout in enumerate(rollouts):
        sent = ROLLOUTS.codec.decode(ROLLOUTS.codec.encode(rollout))
        assembly.observe(rollout_fact(sent), ("rollouts", 0, offset), now_seconds=0.0, now_ns=1)
        for reward in score(sent):
            sent_reward = REWARDS.codec.decode(REWARDS.codec.encode(reward))
            assembly.observe(reward_fact(sent_reward), ("rewards", 0, offset), now_seconds=0.0, now_ns=1)
    built, _ = assembly.next_batch(1, now_ns=1)
    assert isinstance(built, BuiltBatch)
    answer = batch_from_message(batch_to_message(shard(built, 0)), step=1, rank=0)
    assert isinstance(answer, Batch)
    return answer


def load_images(settings: RunFile, batch: Batch) -> dict[str, ProcessedImage]:
    loader = ImageLoader(settings.model.path, BlobStore(settings.store.address(settings.run.folder)).read_image)
    images = {image.sha256: image for group in batch.groups for rollout in group.rollouts for image in rollout.images}
    return {sha256: loader.load(image) for sha256, image in images.items()}


def pack(settings: RunFile, batch: Batch, rules: Any) -> list[MicroBatch]:
    outcomes = with_advantages(batch.outcomes, make_algorithm(settings.learner.algorithm).advantages)
    return pack_groups(batch.groups, load_images(settings, batch), advantage_by_rollout(outcomes), 2, rules)


def all_tokens(rollout: TrainingRollout) -> list[int]:
    return [token for segment in rollout.segments for token in segment.tokens.to_list()]


def is_sampled(rollout: TrainingRollout) -> list[bool]:
    return [segment.is_sampled for segment in rollout.segments for _ in range(len(segment.tokens))]


def plain_logprobs(model: Any, rollout: TrainingRollout, images: dict[str, ProcessedImage]) -> Tensor:
    """Log-probability of every token but the first, in a forward pass of the rollout alone."""
    ids = torch.tensor([all_tokens(rollout)])
    of_rollout = [images[image.sha256] for image in rollout.images]
    logits = model(
        input_ids=ids,
        mm_token_type_ids=(ids == model.config.image_token_id).int(),
        pixel_values=torch.cat([image.pixel_values for image in of_rollout]),
        image_grid_thw=torch.tensor([image.grid_thw for image in of_rollout]),
    ).logits[0]
    logits = logits.float() / rollout.temperature
    logits[:, list(excluded_token_ids(model.config))] = -torch.inf
    return torch.log_softmax(logits[:-1], dim=-1).gather(1, ids[0, 1:, None]).squeeze(1)


def test_every_rollout_has_two_turns_and_the_calculator_calculated(settings: RunFile, batch: Batch) -> None:
    encoder = PromptEncoder(settings.model.path)
    rollouts = [rollout for group in batch.groups for rollout in group.rollouts]
    assert {tuple(segment.is_sampled for segment in rollout.segments) for rollout in rollouts} == {
        (False, True, False, True)
    }
    answers = [encoder.decode(rollout.segments[2].tokens) for rollout in rollouts]
    calls = [match for answer in answers if (match := re.search(r"(\d+)\*(\d+)=(\d+)", answer))]
    assert calls
    assert all(int(call[1]) * int(call[2]) == int(call[3]) for call in calls)


def test_a_verifier_sees_the_last_answer_and_the_conversation_before_it(
    settings: RunFile, prompts: list[Prompt], rollouts: list[Rollout]
) -> None:
    encoder = PromptEncoder(settings.model.path)
    asked = {prompt.group.id: prompt.messages for prompt in prompts}
    for rollout in rollouts:
        seen = to_contract(ANSWERS.codec.decode(ROLLOUTS.codec.encode(rollout)))
        first, last = (encoder.decode(segment.tokens) for segment in rollout.segments if segment.is_sampled)
        question, tool = asked[rollout.group.id], Message(role="calculator", content=calculator(first))
        assert seen.messages == (*question, Message(role="assistant", content=first), tool, *question)
        assert (seen.text, len(seen.images)) == (last, 2)
        assert f"<|im_start|>calculator\n{tool.content}<|im_end|>\n<|im_start|>user\n" in seen.prompt_text
        assert (seen.num_prompt_tokens, seen.num_sampled_tokens) == (
            len(rollout.segments[0].tokens),
            sum(len(segment.tokens) for segment in rollout.segments if segment.is_sampled),
        )


def test_packed_log_probabilities_equal_those_of_an_unpacked_forward_and_of_the_engine(
    settings: RunFile, batch: Batch
) -> None:
    plain = AutoModelForImageTextToText.from_pretrained(settings.model.path, attn_implementation="eager").eval()
    images = load_images(settings, batch)
    policy = load_policy(settings.model.path, precision="fp32", freeze=(), logprob_chunk_tokens=64).eval()
    rollouts = {RolloutKey(group_number=g.group.number, index=r.index): r for g in batch.groups for r in g.rollouts}
    with torch.no_grad():
        for micro_batch in pack(settings, batch, policy.packing_rules()):
            logprobs, _ = policy(micro_batch)
            parts = logprobs.split(micro_batch.rollout_lengths.tolist())
            for key, actual in zip(micro_batch.rollouts, parts, strict=True):
                rollout = rollouts.pop(key)
                mask = torch.tensor(is_sampled(rollout)[1:])
                torch.testing.assert_close(actual, plain_logprobs(plain, rollout, images)[mask], atol=2e-4, rtol=1e-4)
                behaviour = [value for segment in rollout.segments for value in segment.logprobs.to_list()]
                torch.testing.assert_close(actual, torch.tensor(behaviour), atol=2e-4, rtol=1e-4)
    assert not rollouts


WEIGHT = "model.language_model.layers.0.mlp.up_proj.weight"


def gradient_of(weight: Tensor, losses: Sequence[Tensor]) -> Tensor:
    (gradient,) = torch.autograd.grad(torch.stack(list(losses)).sum(), weight)
    return gradient


def test_what_the_tool_said_has_no_gradient(settings: RunFile, batch: Batch) -> None:
    """The gradient is that of the sampled tokens alone, and far from one that the tool's tokens add to."""
    plain: Any = AutoModelForImageTextToText.from_pretrained(settings.model.path, attn_implementation="eager").eval()
    policy = load_policy(settings.model.path, precision="fp32", freeze=(), logprob_chunk_tokens=64).eval()
    images = load_images(settings, batch)
    rollouts = [rollout for group in batch.groups for rollout in group.rollouts]
    logprobs = [plain_logprobs(plain, rollout, images) for rollout in rollouts]
    masks = [torch.tensor(is_sampled(rollout)[1:]) for rollout in rollouts]
    sampled = [values[mask].sum() for values, mask in zip(logprobs, masks, strict=True)]
    with_tool = [values[int(mask.nonzero()[0]) :].sum() for values, mask in zip(logprobs, masks, strict=True)]
    both = torch.autograd.grad(torch.stack(sampled).sum(), plain.get_parameter(WEIGHT), retain_graph=True)
    expected, spoilt = both[0], gradient_of(plain.get_parameter(WEIGHT), with_tool)
    packed = [policy(micro_batch)[0].sum() for micro_batch in pack(settings, batch, policy.packing_rules())]
    actual = gradient_of(policy.checkpoint.get_parameter(WEIGHT), packed)
    scale = expected.abs().max()
    torch.testing.assert_close(actual / scale, expected / scale, atol=2e-3, rtol=0)
    assert float((spoilt - expected).abs().max() / scale) > 0.05


def test_an_update_trains_both_turns(settings: RunFile, batch: Batch) -> None:
    start_process_group()
    policy = load_policy(settings.model.path, precision="fp32", freeze=["model.visual."], logprob_chunk_tokens=64)
    engine = TrainingEngine(policy, settings.learner, precision="fp32")
    before = engine.full_weights()
    result = train_step(
        engine,
        pack(settings, batch, policy.packing_rules()),
        make_algorithm(settings.learner.algorithm),
        step=1,
        size=BatchSize(num_tokens=batch.num_global_tokens, num_rollouts=batch.num_global_rollouts),
    )
    num_sampled = sum(sum(is_sampled(rollout)) for group in batch.groups for rollout in group.rollouts)
    assert batch.num_global_tokens == num_sampled
    assert math.isfinite(result.metrics["grad_norm"])
    assert result.metrics["grad_norm"] > 0
    assert abs(result.metrics["kl_k1"]) < 1e-4, "the behaviour policy is the trained one"
    after = engine.full_weights()
    assert any(not torch.equal(before[name], after[name]) for name in before)

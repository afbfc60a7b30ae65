"""The work of a run in one process: the same functions, called one after the other, without a bus.

    prompts -> engine -> verifiers -> judge -> batch -> pack -> train_step -> weights -> engine
                                                                   |
                                                                   +--> checkpoint

Prompts are answered in full batches of the engine; scored groups that a step does not take are left for the next
one, whose staleness bound of one version they keep. Nothing is encoded, published, or written to a database.
"""

import asyncio
import resource
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import torch
from bench.measuring import busy_cpu_seconds
from transformers.utils import logging as transformers_logging

from tristream.assembler.join import OpenGroup
from tristream.assembler.judge import Rejection, ScoredGroup, judge
from tristream.assembler.shards import BuiltBatch, shard
from tristream.config.run_file import RunFile
from tristream.dispatcher.prompt_making import PromptMaker
from tristream.learner.checkpoints import Bookkeeping, RunIdentity, write_checkpoint
from tristream.learner.training.deepspeed_engine import PolicyEngine
from tristream.learner.training.distributed import start_process_group
from tristream.learner.training.packing import pack_groups
from tristream.learner.training.train_step import StepResult, train_step
from tristream.learner.training.trained_policy import load_policy
from tristream.learner.weights import model_fingerprint, publish_weights, remove_old_weights
from tristream.policy.images import ImageLoader
from tristream.policy.prompt_encoder import EncodedPrompt, PromptEncoder
from tristream.producer.engines.decoding_policy import PolicyModel
from tristream.producer.engines.transformers import TransformersEngine
from tristream.producer.rollout_making import make_request, make_rollout
from tristream.runtime.store import BlobStore
from tristream.verifiers.adapters.image_grid import ImageSizes
from tristream.verifiers.registry import canonical_name, select_verifiers
from tristream.verifiers.service import child, scoring
from tristream.wire.batches import Batch
from tristream.wire.events import Progress, Prompt, Reward, RewardTerm, Rollout
from tristream.wire.ledger import Ledger

PHASES = ("generate", "score", "pack", "train", "publish", "checkpoint")


class Sampler:
    """Answers prompts, scores the answers, and hands out batches."""

    def __init__(self, settings: RunFile) -> None:
        transformers_logging.disable_progress_bar()
        self._settings = settings
        self._store = BlobStore(settings.store_uri, inline_limit_bytes=settings.rollout.inline_image_bytes)
        self._maker = PromptMaker(settings, self._store)
        self._encoder = PromptEncoder(settings.model.path)
        model = PolicyModel(settings.model.path, self._encoder.config, settings.learner.precision)
        self.engine = TransformersEngine(self._encoder, model, max_batch_size=settings.rollout.max_batch_size)
        self.engine.load_weights(0, settings.model.path / "model.safetensors")
        self._verifiers = {name: verifier() for name, verifier in select_verifiers(()).items()}
        self._sizes = ImageSizes(settings.model.path, settings.store_uri)
        self._ready: deque[ScoredGroup] = deque()
        self._dropped: list[int] = []
        self.prompts: list[Prompt] = []
        self.rollouts: list[Rollout] = []
        self.rewards: list[Reward] = []
        self.rejections: list[Rejection] = []
        self.seconds = dict.fromkeys(("generate", "score"), 0.0)
        """Time spent so far."""

    def take_batch(self, step: int) -> Batch:
        """The batch of a step; answers as many prompts as it needs."""
        wanted = self._settings.rollout.groups_per_step
        while len(self._ready) < wanted:
            self._answer_more(step)
        groups = tuple(self._ready.popleft() for _ in range(wanted))
        batch = BuiltBatch(step=step, groups=groups, dropped=tuple(self._dropped), offsets=())
        self._dropped = []
        return shard(batch, 0, 1, self._settings.assembly.micro_batch_tokens)

    def _answer_more(self, step: int) -> None:
        rollout = self._settings.rollout
        started = time.monotonic()
        progress = Progress(step=step, total_steps=self._settings.run.steps)
        first = len(self.prompts)
        num_prompts = max(1, rollout.max_batch_size // rollout.group_size)
        prompts = [self._maker.training_prompt(first + number, progress) for number in range(num_prompts)]
        answers = self._answer(prompts)
        generated = time.monotonic()
        for prompt in prompts:
            self._judge(answers[prompt.group.number])
        self.prompts.extend(prompts)
        self.seconds["generate"] += generated - started
        self.seconds["score"] += time.monotonic() - generated

    def _answer(self, prompts: Sequence[Prompt]) -> dict[int, list[Rollout]]:
        work: dict[str, tuple[Prompt, int, EncodedPrompt]] = {}
        for prompt in prompts:
            images = tuple(self._store.read_image(image) for image in prompt.images)
            encoded = self._encoder.encode(prompt.messages, images)
            for index in range(prompt.group.size):
                request = make_request(prompt, encoded, images, index)
                self.engine.submit(request)
                work[request.id] = (prompt, index, encoded)
        answers: dict[int, list[Rollout]] = {prompt.group.number: [] for prompt in prompts}
        while work:
            for completion in self.engine.step():
                prompt, index, encoded = work.pop(completion.id)
                text = self._encoder.decode(completion.tokens)
                rollout = make_rollout(prompt, index, encoded, completion, text=text, producer="one-process")
                answers[prompt.group.number].append(rollout)
        return answers

    def _judge(self, rollouts: Sequence[Rollout]) -> None:
        state = OpenGroup(group=rollouts[0].group, opened_seconds=time.monotonic())
        for rollout in rollouts:
            state.rollouts[rollout.index] = rollout
            for term in rollout.reward.terms:
                reward = self._score(rollout, term)
                state.rewards[rollout.index, term.verifier] = reward
                self.rewards.append(reward)
        self.rollouts.extend(rollouts)
        verdict = judge(state, drop_zero_variance=self._settings.assembly.drop_zero_variance)
        if isinstance(verdict, Rejection):
            self.rejections.append(verdict)
            self._dropped.append(verdict.group.number)
        else:
            self._ready.append(verdict)

    def _score(self, rollout: Rollout, term: RewardTerm) -> Reward:
        verifier = self._verifiers[canonical_name(term.verifier)]
        params = scoring.parse_params(term.params_json)
        if params.get("det_verifier_normalized"):
            params = asyncio.run(self._sizes.complete(rollout, params))
        verdict = child.judge(verifier, scoring.make_request(rollout, params))
        return Reward(
            group=rollout.group,
            index=rollout.index,
            verifier=term.verifier,
            version=verifier.version,
            status=verdict.status,
            detail=verdict.detail,
            components=verdict.components,
            metrics=verdict.metrics,
            queued_seconds=0.0,
            score_seconds=verdict.score_seconds,
            created_ns=time.time_ns(),
        )


@dataclass(slots=True, kw_only=True)
class OneProcessTimes:
    """What a run in one process took, from the end of its warm-up to its end."""

    step_seconds: list[float]
    phase_seconds: dict[str, float]
    """Mean seconds a step, by phase."""
    num_rollouts: int
    num_completion_tokens: int
    """Tokens of all rollouts, those of dropped groups included."""
    cpu_seconds: float
    other_cpu_seconds: float
    """CPU seconds that the rest of the machine used meanwhile."""


class OneProcess:
    """A whole run: sampler and learner by turns."""

    def __init__(self, settings: RunFile) -> None:
        start_process_group()
        torch.manual_seed(settings.run.seed)
        self._settings = settings
        self._store = BlobStore(settings.store_uri)
        self.sampler = Sampler(settings)
        policy = load_policy(
            settings.model.path,
            precision=settings.learner.precision,
            freeze=settings.model.freeze,
            logprob_chunk_tokens=settings.learner.logprob_chunk_tokens,
        )
        self._engine = PolicyEngine(policy, settings.learner)
        self._rules = policy.packing_rules()
        self._images = ImageLoader(settings.model.path, self._store.read_image)
        self._seconds = dict.fromkeys(PHASES, 0.0)

    def run_step(self, step: int) -> tuple[Batch, StepResult]:
        """Do the work of one step."""
        batch = self.sampler.take_batch(step)
        sampled = time.monotonic()
        images = [[self._images.load(image) for image in group.images] for group in batch.groups]
        micro_batches = pack_groups(batch.groups, images, batch.num_micro_batches, self._rules)
        packed = time.monotonic()
        result = train_step(
            self._engine,
            micro_batches,
            step=step,
            num_global_tokens=batch.num_global_tokens,
            settings=self._settings.learner,
        )
        trained = time.monotonic()
        self._hand_over_weights(step)
        published = time.monotonic()
        self._seconds["pack"] += packed - sampled
        self._seconds["train"] += trained - packed
        self._seconds["publish"] += published - trained
        if step % self._settings.learner.checkpoint_every == 0:
            self._checkpoint(step)
            self._seconds["checkpoint"] += time.monotonic() - published
        return batch, result

    def measure(self, *, num_warmup: int, num_measured: int) -> OneProcessTimes:
        """Run the steps and time those after the warm-up."""
        for step in range(1, num_warmup + 1):
            self.run_step(step)
        first_rollout, before = len(self.sampler.rollouts), self._all_seconds()
        cpu_before, busy_before = own_cpu_seconds(), busy_cpu_seconds()
        ends = [time.monotonic()]
        for step in range(num_warmup + 1, num_warmup + num_measured + 1):
            self.run_step(step)
            ends.append(time.monotonic())
        cpu_seconds = own_cpu_seconds() - cpu_before
        rollouts = self.sampler.rollouts[first_rollout:]
        return OneProcessTimes(
            step_seconds=[end - start for start, end in pairwise(ends)],
            phase_seconds={name: (value - before[name]) / num_measured for name, value in self._all_seconds().items()},
            num_rollouts=len(rollouts),
            num_completion_tokens=sum(len(rollout.completion_tokens) for rollout in rollouts),
            cpu_seconds=cpu_seconds,
            other_cpu_seconds=busy_cpu_seconds() - busy_before - cpu_seconds,
        )

    def _all_seconds(self) -> dict[str, float]:
        return self._seconds | self.sampler.seconds

    def _hand_over_weights(self, version: int) -> None:
        weights = publish_weights(self._store, version, self._engine.full_weights())
        remove_old_weights(self._store, version, self._settings)
        self.sampler.engine.load_weights(version, self._store.fetch(weights.uri, weights.sha256))

    def _checkpoint(self, step: int) -> Path:
        identity = RunIdentity(
            run=self._settings.run.id,
            seed=self._settings.run.seed,
            total_steps=self._settings.run.steps,
            model=model_fingerprint(self._settings.model.path),
            world_size=1,
            zero_stage=self._settings.learner.zero_stage,
            precision=self._settings.learner.precision,
        )
        bookkeeping = Bookkeeping(ledger=Ledger(step=step), pending=())
        return write_checkpoint(
            self._settings.run.folder / "checkpoints",
            identity,
            bookkeeping,
            self._engine.save_state,
            rank=0,
            barrier=lambda: None,
        )


def own_cpu_seconds() -> float:
    """CPU seconds that this process has used."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def measure_one_process(settings: RunFile, *, num_threads: int, num_warmup: int, num_measured: int) -> OneProcessTimes:
    """Run in this process, which must be a fresh one, on so many threads."""
    torch.set_num_threads(num_threads)
    return OneProcess(settings).measure(num_warmup=num_warmup, num_measured=num_measured)

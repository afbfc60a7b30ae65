"""Batches without a bus: prompts answered by the engine, scored by the verifiers, judged, in this process.

    prompts -> engine -> verifiers -> judge -> batch

Prompts are answered in full batches of the engine; scored groups that a step does not take are left for the next
one, whose staleness bound of one version they keep. Nothing is encoded or published.
"""

import asyncio
import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from transformers.utils import logging as transformers_logging

from tristream.assembler.facts import prompt_fact, reward_fact, rollout_fact
from tristream.assembler.join import OpenGroup
from tristream.assembler.judge import ScoredGroup, judge
from tristream.assembler.shards import BuiltBatch, shard
from tristream.config.parts import DispatcherSettings
from tristream.config.run_file import RunFile
from tristream.dispatcher.prompt_making import PromptMaker
from tristream.local.trial import load_definitions
from tristream.policy.prompt_encoder import PromptEncoder
from tristream.producer.engines.protocol import WeightsFile
from tristream.producer.engines.registry import make_engine
from tristream.producer.rollout_running import RolloutRunner
from tristream.runtime.store import open_store
from tristream.verifiers.adapters.image_grid import ImageSizes
from tristream.verifiers.contract import Unscorable
from tristream.verifiers.pool.coercion import plain_judgements
from tristream.verifiers.pool.tasks import Judgement, Verdict
from tristream.verifiers.pool.truths import Truths
from tristream.verifiers.service.answers import Answer
from tristream.verifiers.service.conversion import to_contract
from tristream.verifiers.service.rewards import make_reward
from tristream.wire.batches import Batch
from tristream.wire.events import LogPosition, Outcome, Progress, Prompt, Reward, RewardTerm, Rollout, Status


class Sampler:
    """Answers prompts, scores the answers, and hands out batches."""

    def __init__(self, settings: RunFile) -> None:
        transformers_logging.disable_progress_bar()
        self._settings = settings
        self._store = open_store(
            settings.store, settings.run.folder, inline_limit_bytes=settings.rollout.inline_image_bytes
        )
        self._maker = PromptMaker(DispatcherSettings.of(settings), self._store)
        self._encoder = PromptEncoder(settings.model.path)
        # The engine sets the threads of its process, and here that is the whole benchmark.
        section = settings.rollout.engine.model_copy(update={"num_threads": torch.get_num_threads()})
        self._engine = make_engine(section, settings.model, self._encoder)
        self._loop = asyncio.Runner()
        self._runner = RolloutRunner(
            self._store,
            self._encoder,
            self._engine,
            environments={},
            max_seconds=settings.rollout.max_seconds,
            instance="one-process",
            say=lambda _words: None,
            stop=threading.Event(),
        )
        self.load_weights(0, settings.model.path / "model.safetensors")
        self._definitions = load_definitions(settings.verification)
        self._truths = {name: Truths(definition) for name, definition in self._definitions.items()}
        self._sizes = ImageSizes(settings.model.path, lambda: self._store)
        self._ready: deque[ScoredGroup] = deque()
        self._unreported_drops: list[int] = []
        self.prompts: list[Prompt] = []
        self.rollouts: list[Rollout] = []
        self.rewards: list[Reward] = []
        self.drops: list[Outcome] = []
        self.seconds = dict.fromkeys(("generate", "score"), 0.0)
        """Time spent so far."""

    def load_weights(self, version: int, path: Path) -> None:
        """Answer with other weights from now on."""
        self._loop.run(self._engine.update_weights(version, WeightsFile(path=path)))

    def take_batch(self, step: int) -> Batch:
        """The batch of a step; answers as many prompts as it needs."""
        wanted = self._settings.rollout.groups_per_step
        while len(self._ready) < wanted:
            self._answer_more(step)
        groups = tuple(self._ready.popleft() for _ in range(wanted))
        now_ns = time.time_ns()
        batch = BuiltBatch(
            step=step,
            world_size=1,
            groups=groups,
            outcomes=tuple(scored.trained_outcome(step, now_ns) for scored in groups),
            dropped=tuple(self._unreported_drops),
            position=LogPosition(),
        )
        self._unreported_drops = []
        return shard(batch, 0)

    def _answer_more(self, step: int) -> None:
        rollout = self._settings.rollout
        started = time.monotonic()
        progress = Progress(step=step, total_steps=self._settings.run.steps)
        first = len(self.prompts)
        num_prompts = max(1, rollout.engine.max_batch_size // rollout.group_size)
        prompts = [self._maker.training_prompt(first + number, progress) for number in range(num_prompts)]
        answers = self._answer(prompts)
        generated = time.monotonic()
        for prompt in prompts:
            self._judge(prompt, answers[prompt.group.number])
        self.prompts.extend(prompts)
        self.seconds["generate"] += generated - started
        self.seconds["score"] += time.monotonic() - generated

    def _answer(self, prompts: Sequence[Prompt]) -> dict[int, list[Rollout]]:
        rollouts = self._loop.run(self._answer_together(prompts))
        return {prompt.group.number: of_prompt for prompt, of_prompt in zip(prompts, rollouts, strict=True)}

    async def _answer_together(self, prompts: Sequence[Prompt]) -> list[list[Rollout]]:
        return await asyncio.gather(*(self._answer_one(prompt) for prompt in prompts))

    async def _answer_one(self, prompt: Prompt) -> list[Rollout]:
        group = await self._runner.encode(prompt)
        return await asyncio.gather(*(self._runner.run(group, index) for index in range(prompt.group.size)))

    def _judge(self, prompt: Prompt, rollouts: Sequence[Rollout]) -> None:
        state = OpenGroup(group=prompt.group, opened_seconds=time.monotonic())
        state.add(prompt_fact(prompt))
        for rollout in rollouts:
            state.add(rollout_fact(rollout))
            for term in rollout.reward.terms:
                reward = self._score(rollout, term)
                state.add(reward_fact(reward))
                self.rewards.append(reward)
        self.rollouts.extend(rollouts)
        drops_flat = self._settings.assembly.drop_zero_variance
        verdict = judge(state, drop_zero_variance=drops_flat, now_ns=time.time_ns())
        if isinstance(verdict, Outcome):
            self.drops.append(verdict)
            self._unreported_drops.append(verdict.group.number)
        else:
            self._ready.append(verdict)

    def _score(self, rollout: Rollout, term: RewardTerm) -> Reward:
        definition, truths = self._definitions[term.verifier], self._truths[term.verifier]
        answer = Answer(
            rollout=rollout, num_prompt_tokens=rollout.num_prompt_tokens, num_sampled_tokens=rollout.num_sampled_tokens
        )
        params_json = self._sizes.complete(rollout, term.params_json)
        try:
            keywords = truths.keywords(params_json)
            truth = truths.truth(rollout.reward.ground_truth, params_json, keywords)
            returned = definition(replace(to_contract(answer), truth=truth), **keywords)
        except Unscorable as error:
            return make_reward(rollout, term, Verdict(status=Status.UNSCORABLE, detail=str(error)))
        ((components, *_),) = plain_judgements(returned, definition, keywords, 1)
        return make_reward(rollout, term, Verdict(status=Status.SCORED), Judgement(components=components))

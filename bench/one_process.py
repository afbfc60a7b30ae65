"""The work of a run in one process: the same functions, called one after the other, without a bus.

    sampler -> batch -> pack -> train_step -> weights -> engine of the sampler
                                    |
                                    +--> checkpoint

Nothing is encoded, published, or written to a database.
"""

import resource
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import torch
from bench.measuring import busy_cpu_seconds
from bench.sampler import Sampler

from tristream.config.parts import LearnerSettings
from tristream.config.run_file import RunFile
from tristream.learner.algorithms.registry import make_algorithm
from tristream.learner.checkpoints import write_checkpoint
from tristream.learner.main import run_identity
from tristream.learner.outcomes import advantage_by_rollout, with_advantages
from tristream.learner.ranks import Ranks
from tristream.learner.training.deepspeed_engine import TrainingEngine
from tristream.learner.training.distributed import start_process_group
from tristream.learner.training.packing import MicroBatch, pack_plan, plan_groups
from tristream.learner.training.sequences import PackingRules, RolloutKey
from tristream.learner.training.train_step import BatchSize, StepResult, train_step
from tristream.learner.training.trained_policy import load_policy
from tristream.learner.weights import publish_weights, remove_old_weights
from tristream.policy.images import ImageLoader, ProcessedImage
from tristream.runtime.store import open_store
from tristream.wire.batches import Batch, Commit
from tristream.wire.events import Ledger, Outcome

PHASES = ("generate", "score", "pack", "train", "publish", "checkpoint")


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


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainedStep:
    """One step that was trained."""

    batch: Batch
    outcomes: tuple[Outcome, ...]
    """Outcomes of the batch with their advantages."""
    result: StepResult


class OneProcess:
    """A whole run: sampler and learner by turns."""

    def __init__(self, settings: RunFile) -> None:
        start_process_group()
        torch.manual_seed(settings.run.seed)
        self._settings = LearnerSettings.of(settings)
        self._store = open_store(settings.store, settings.run.folder)
        self.sampler = Sampler(settings)
        policy = load_policy(
            settings.model.path,
            precision=settings.model.precision,
            freeze=settings.model.freeze,
            logprob_chunk_tokens=settings.learner.logprob_chunk_tokens,
        )
        self._algorithm = make_algorithm(settings.learner.algorithm, max_tokens=settings.rollout.max_tokens)
        self._engine = TrainingEngine(
            policy, settings.learner, precision=settings.model.precision, num_steps=settings.run.steps
        )
        self._rules = policy.packing_rules()
        self._images = ImageLoader(settings.model.path, self._store.read_image)
        self._seconds = dict.fromkeys(PHASES, 0.0)

    def run_step(self, step: int) -> TrainedStep:
        """Do the work of one step."""
        batch = self.sampler.take_batch(step)
        sampled = time.monotonic()
        outcomes = with_advantages(batch.outcomes, self._algorithm.advantages)
        micro_batches = pack_batch(
            batch,
            load_images(self._images, batch),
            advantage_by_rollout(outcomes),
            self._settings.learner.micro_batch_tokens,
            self._rules,
        )
        packed = time.monotonic()
        result = train_step(
            self._engine,
            micro_batches,
            self._algorithm,
            step=step,
            size=BatchSize(num_tokens=batch.num_global_tokens, num_rollouts=batch.num_global_rollouts),
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
        return TrainedStep(batch=batch, outcomes=outcomes, result=result)

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
            num_completion_tokens=sum(rollout.num_sampled_tokens for rollout in rollouts),
            cpu_seconds=cpu_seconds,
            other_cpu_seconds=busy_cpu_seconds() - busy_before - cpu_seconds,
        )

    def _all_seconds(self) -> dict[str, float]:
        return self._seconds | self.sampler.seconds

    def _hand_over_weights(self, version: int) -> None:
        weights = publish_weights(self._store, version, self._engine.full_weights(), self._settings)
        remove_old_weights(self._store, version, self._settings)
        self.sampler.load_weights(version, self._store.fetch(weights.uri, weights.sha256))

    def _checkpoint(self, step: int) -> Path:
        return write_checkpoint(
            self._settings.run.folder,
            run_identity(self._settings, 1),
            Commit(ledger=Ledger(step=step)),
            self._engine.save_state,
            ranks=Ranks(0, 1, stop=threading.Event()),
            epoch=0,
        )


def pack_batch(
    batch: Batch,
    images: Mapping[str, ProcessedImage],
    advantages: Mapping[RolloutKey, float],
    max_tokens: int,
    rules: PackingRules,
) -> list[MicroBatch]:
    """The micro-batches of a batch that one rank trains."""
    plan = plan_groups(batch.groups, images, advantages, max_tokens, rules)
    return pack_plan(plan, len(plan.micro_batches), rules)


def load_images(loader: ImageLoader, batch: Batch) -> dict[str, ProcessedImage]:
    """The images of a batch by sha256, each once."""
    unique = {image.sha256: image for group in batch.groups for r in group.rollouts for image in r.images}
    return {sha256: loader.load(image) for sha256, image in unique.items()}


def own_cpu_seconds() -> float:
    """CPU seconds that this process has used."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def measure_one_process(settings: RunFile, *, num_threads: int, num_warmup: int, num_measured: int) -> OneProcessTimes:
    """Run in this process, which must be a fresh one, on so many threads."""
    torch.set_num_threads(num_threads)
    return OneProcess(settings).measure(num_warmup=num_warmup, num_measured=num_measured)

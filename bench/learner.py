"""Time the learner's training step beside the same step in plain torch.

Real batches of the demo: its prompts are answered by its model, scored by its verifiers, and judged. Every batch is
trained once by each step, in turns; the first batch of a policy checks that all have the same gradient.
"""

import argparse
import math
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from bench.measuring import DEMO, Goal, load_demo, make_table, say, show, spread, write_results
from bench.one_process import load_images, pack_batch
from bench.plain_steps import BareStep, PaddedStep
from bench.sampler import Sampler

from tristream.config.run_file import RunFile
from tristream.learner.algorithms.registry import make_algorithm
from tristream.learner.outcomes import advantage_by_rollout, with_advantages
from tristream.learner.training.deepspeed_engine import TrainingEngine
from tristream.learner.training.distributed import start_process_group
from tristream.learner.training.packing import MicroBatch
from tristream.learner.training.sequences import RolloutKey
from tristream.learner.training.train_step import BatchSize, train_step
from tristream.learner.training.trained_policy import load_policy
from tristream.policy.images import ImageLoader, ProcessedImage
from tristream.runtime.store import open_store
from tristream.wire.batches import Batch

LIMIT_PERCENT = 70.0
GRADIENT_TOLERANCE = 0.01
NAMES = {
    "ours": "tristream: load images, pack, train_step",
    "bare": "bare: the packed micro-batches in plain torch",
    "padded": "padded: a row for each rollout, plain torch",
}


@dataclass(slots=True, kw_only=True)
class Samples:
    """Seconds and tokens of each timed step of one kind."""

    seconds: list[float] = field(default_factory=list)
    num_completion_tokens: list[int] = field(default_factory=list)
    num_model_tokens: list[int] = field(default_factory=list)


class Contest:
    """The three steps, each with a model of its own."""

    def __init__(self, settings: RunFile) -> None:
        start_process_group()
        self._settings = settings
        policy = load_policy(
            settings.model.path,
            precision=settings.model.precision,
            freeze=settings.model.freeze,
            logprob_chunk_tokens=settings.learner.logprob_chunk_tokens,
        )
        self._rules = policy.packing_rules()
        self._algorithm = make_algorithm(settings.learner.algorithm, max_tokens=settings.rollout.max_tokens)
        self._engine = TrainingEngine(
            policy, settings.learner, precision=settings.model.precision, num_steps=settings.run.steps
        )
        store = open_store(settings.store, settings.run.folder)
        self._images = ImageLoader(settings.model.path, store.read_image)
        self._plain_images = ImageLoader(settings.model.path, store.read_image)
        self._bare = BareStep(settings)
        self._padded = PaddedStep(settings)
        self.samples = {name: Samples() for name in NAMES}
        self.phases: dict[str, list[float]] = {}

    def warm_up(self, batch: Batch) -> None:
        """Train a first batch with each, and check that their gradients agree.

        Raises:
            ValueError: they do not, so that the steps do not do the same work.
        """
        norms = {name: self._train(name, batch)[0] for name in NAMES}
        if any(not math.isclose(norm, norms["bare"], rel_tol=GRADIENT_TOLERANCE) for norm in norms.values()):
            raise ValueError(f"the gradients of the steps differ: their norms are {norms}")
        self.phases.clear()

    def compete(self, batch: Batch, first: int) -> None:
        """Train a batch with each in turn, beginning with the ``first``-th."""
        names = [*NAMES][first % len(NAMES) :] + [*NAMES][: first % len(NAMES)]
        for name in names:
            _, seconds, num_model_tokens = self._train(name, batch)
            self.samples[name].seconds.append(seconds)
            self.samples[name].num_completion_tokens.append(batch.num_global_tokens)
            self.samples[name].num_model_tokens.append(num_model_tokens)

    def _train(self, name: str, batch: Batch) -> tuple[float, float, int]:
        """Gradient norm, seconds, and tokens that the model computed."""
        if name == "ours":
            return self._train_ours(batch)
        images = load_images(self._plain_images, batch)
        advantages = advantage_by_rollout(with_advantages(batch.outcomes, self._algorithm.advantages))
        micro_batches = self._pack(batch, images, advantages)
        started = time.monotonic()
        if name == "bare":
            norm = self._bare.step(micro_batches, batch.num_global_tokens)
            return norm, time.monotonic() - started, count_tokens(micro_batches)
        norm = self._padded.step(batch.groups, images, advantages, batch.num_global_tokens)
        return norm, time.monotonic() - started, self._padded.num_model_tokens

    def _pack(
        self, batch: Batch, images: Mapping[str, ProcessedImage], advantages: Mapping[RolloutKey, float]
    ) -> list[MicroBatch]:
        return pack_batch(batch, images, advantages, self._settings.learner.micro_batch_tokens, self._rules)

    def _train_ours(self, batch: Batch) -> tuple[float, float, int]:
        started = time.monotonic()
        images = load_images(self._images, batch)
        loaded = time.monotonic()
        advantages = advantage_by_rollout(with_advantages(batch.outcomes, self._algorithm.advantages))
        micro_batches = self._pack(batch, images, advantages)
        packed = time.monotonic()
        result = train_step(
            self._engine,
            micro_batches,
            self._algorithm,
            step=self._settings.run.steps,
            size=BatchSize(num_tokens=batch.num_global_tokens, num_rollouts=batch.num_global_rollouts),
        )
        seconds = time.monotonic() - started
        phases = {
            "load images": loaded - started,
            "pack": packed - loaded,
            "forward and backward, gradient norms": result.forward_backward_seconds,
            "clip and optimizer": result.optimizer_seconds,
        }
        for phase, value in phases.items():
            self.phases.setdefault(phase, []).append(value)
        return result.metrics["grad_norm"], seconds, count_tokens(micro_batches)


def count_tokens(micro_batches: Sequence[MicroBatch]) -> int:
    return sum(micro_batch.num_tokens for micro_batch in micro_batches)


def summarize(samples: dict[str, Samples]) -> dict[str, dict[str, float]]:
    """Medians over the batches; percentages are medians of the ratio to the bare step on the same batch."""
    return {
        name: {
            "milliseconds_per_step": 1000 * statistics.median(of.seconds),
            "milliseconds_p10": 1000 * spread(of.seconds)["p10"],
            "milliseconds_p90": 1000 * spread(of.seconds)["p90"],
            "completion_tokens_per_second": median_ratio(of.num_completion_tokens, of.seconds),
            "model_tokens_per_step": statistics.median(of.num_model_tokens),
            "model_tokens_per_second": median_ratio(of.num_model_tokens, of.seconds),
            "percent_of_bare": 100 * median_ratio(samples["bare"].seconds, of.seconds),
        }
        for name, of in samples.items()
    }


def median_ratio(above: Sequence[float], below: Sequence[float]) -> float:
    return statistics.median(a / b for a, b in zip(above, below, strict=True))


def print_tables(summary: dict[str, dict[str, float]], phases: dict[str, float]) -> None:
    columns = ("step", "ms/step", "p10..p90", "completion tok/s", "model tok/step", "model tok/s", "% of bare")
    rows = [
        (
            NAMES[name],
            f"{row['milliseconds_per_step']:.0f}",
            f"{row['milliseconds_p10']:.0f}..{row['milliseconds_p90']:.0f}",
            f"{row['completion_tokens_per_second']:,.0f}",
            f"{row['model_tokens_per_step']:,.0f}",
            f"{row['model_tokens_per_second']:,.0f}",
            f"{row['percent_of_bare']:.1f}",
        )
        for name, row in summary.items()
    ]
    parts = [(name, f"{1000 * seconds:.1f}") for name, seconds in phases.items()]
    show(make_table("one training step", columns, rows), make_table("inside tristream's step", ("part", "ms"), parts))


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench.learner",
        description="Time the learner's step beside a bare and a padded step in plain torch, on the same batches.",
    )
    parser.add_argument("--run", type=Path, default=DEMO, help="run file of a vision-language model (default: digits)")
    parser.add_argument("--repeats", type=int, default=18, help="timed batches, 1 or more (default: 18)")
    parser.add_argument("--warmup", type=int, default=2, help="batches trained before, 1 or more (default: 2)")
    parser.add_argument("--threads", type=int, help="torch threads of every step (default: learner.num_threads)")
    arguments = parser.parse_args()
    if min(arguments.repeats, arguments.warmup) < 1:
        parser.error("--repeats and --warmup are 1 or more")
    return arguments


def measure(settings: RunFile, *, num_warmup: int, num_repeats: int) -> Contest:
    sampler = Sampler(settings)
    say(f"sampling and scoring {num_warmup + num_repeats} batches of the demo")
    batches = [sampler.take_batch(1) for _ in range(num_warmup + num_repeats)]
    contest = Contest(settings)
    contest.warm_up(batches[0])
    for batch in batches[1:num_warmup]:
        contest.compete(batch, 0)
    contest.samples = {name: Samples() for name in NAMES}
    contest.phases.clear()
    for number, batch in enumerate(batches[num_warmup:]):
        contest.compete(batch, number)
        times = ", ".join(f"{name} {1000 * of.seconds[-1]:.0f} ms" for name, of in contest.samples.items())
        say(f"batch {number + 1}/{num_repeats}, {batch.num_global_tokens} completion tokens: {times}")
    return contest


def main() -> None:
    """Measure, print, write ``bench/results/learner.json``."""
    arguments = parse_arguments()
    with tempfile.TemporaryDirectory() as folder:
        settings = load_demo(arguments.run, Path(folder))
        num_threads = arguments.threads or settings.learner.num_threads
        torch.set_num_threads(num_threads)
        contest = measure(settings, num_warmup=arguments.warmup, num_repeats=arguments.repeats)
    summary = summarize(contest.samples)
    phases = {name: statistics.median(values) for name, values in contest.phases.items()}
    goal = Goal(
        name="the learner's tokens/s of the bare packed step's",
        measured_percent=summary["ours"]["percent_of_bare"],
        limit_percent=LIMIT_PERCENT,
        is_upper_limit=False,
    )
    print_tables(summary, phases)
    print(goal)
    results: dict[str, Any] = {
        "threads": num_threads,
        "repeats": arguments.repeats,
        "summary": summary,
        "phase_seconds": phases,
        "seconds": {name: of.seconds for name, of in contest.samples.items()},
        "goal": {"percent_of_bare": goal.measured_percent, "at_least": goal.limit_percent, "met": goal.is_met},
    }
    print(f"written to {write_results('learner', results)}")


if __name__ == "__main__":
    main()

"""Time the learner's training step beside the same step in plain torch, and beside TRL's (``trl_contest.py``).

Real batches of the demo: its prompts are answered by its model, scored by its verifiers, and judged. Every batch is
trained once by each step, in turns; the first batch of a policy checks that all have the same gradient.
"""

import argparse
import math
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from bench.measuring import DEMO, Goal, in_own_process, load_demo, num_cores, say, write_results
from bench.one_process import load_images, pack_batch
from bench.plain_steps import BareStep, PaddedStep
from bench.sampler import Sampler
from bench.step_samples import NAMES, Samples, print_tables, summarize
from bench.trl_cases import CASES

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
PLAIN = "plain"
"""The case that is compared with plain torch."""


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


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench.learner",
        description="Time the learner's step beside a bare and a padded step in plain torch, and beside TRL's.",
        epilog="example: python -m bench.learner --cases mixed shared",
    )
    parser.add_argument("--run", type=Path, default=DEMO, help="run file of a vision-language model (default: digits)")
    parser.add_argument(
        "--cases",
        nargs="+",
        choices=[PLAIN, *CASES],
        default=[PLAIN, *CASES],
        help="plain: beside plain torch on batches of --run; the others: beside TRL (default: all)",
    )
    parser.add_argument("--repeats", type=int, default=18, help="timed batches of plain, 1 or more (default: 18)")
    parser.add_argument("--warmup", type=int, default=2, help="batches of plain before, 1 or more (default: 2)")
    parser.add_argument("--turns", type=int, help="timed steps of each side beside TRL (default: by the case, 3 or 5)")
    parser.add_argument(
        "--threads", type=int, help="torch threads (default: learner.num_threads, and all cores beside TRL)"
    )
    arguments = parser.parse_args()
    numbers = (arguments.repeats, arguments.warmup, arguments.turns, arguments.threads)
    if any(number is not None and number < 1 for number in numbers):
        parser.error("--repeats, --warmup, --turns and --threads are 1 or more")
    if {*arguments.cases} - {PLAIN} and find_spec("trl") is None:
        parser.error(f"TRL is not installed: install the extra 'dev' (make setup does), or say --cases {PLAIN}")
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


def compare_with_plain_torch(arguments: argparse.Namespace) -> dict[str, Any]:
    """Measure, print, and return what is to be written."""
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
    return {
        "threads": num_threads,
        "repeats": arguments.repeats,
        "summary": summary,
        "phase_seconds": phases,
        "seconds": {name: of.seconds for name, of in contest.samples.items()},
        "goal": {"percent_of_bare": goal.measured_percent, "at_least": goal.limit_percent, "met": goal.is_met},
    }


def main() -> None:
    """Measure, print, write ``bench/results/learner.json``."""
    arguments = parse_arguments()
    names = [name for name in CASES if name in arguments.cases]
    results: dict[str, Any] = {}
    if names:
        from bench.trl_contest import compare_with_trl

        num_threads = arguments.threads or num_cores()
        results["trl"] = compare_with_trl(names, num_threads=num_threads, num_turns=arguments.turns)
    if PLAIN in arguments.cases:
        results |= in_own_process(compare_with_plain_torch, arguments)
    print(f"written to {write_results('learner', results)}")


if __name__ == "__main__":
    main()

"""The learner's step beside TRL's on the same batch, in turns, in one process for each case."""

import math
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from bench.measuring import ROOT, in_own_process, load_demo, make_table, say, show
from bench.one_process import pack_batch
from bench.trl_cases import CASES, Case, make_batch, make_checkpoint
from bench.trl_steps import TrlStep, make_inputs
from transformers.utils.logging import disable_progress_bar

from tristream.config.run_file import RunFile
from tristream.learner.algorithms.registry import make_algorithm
from tristream.learner.outcomes import advantage_by_rollout, with_advantages
from tristream.learner.training.deepspeed_engine import TrainingEngine
from tristream.learner.training.distributed import start_process_group
from tristream.learner.training.train_step import BatchSize, train_step
from tristream.learner.training.trained_policy import load_policy
from tristream.wire.batches import Batch

RUN = ROOT / "examples/smollm2/run.toml"
LEARNING_RATE = 1e-12
"""So small that weights stay as they are: every step then has the same loss, and takes as long as with any other."""
TOLERANCE = 1e-3
"""Relative, of losses and gradient norms."""
NUM_ROUNDS = 2
"""Times that TRL's step is tried with each number of rows at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CaseResult:
    """What both steps took on the batch of one case."""

    title: str
    num_threads: int
    num_completion_tokens: int
    our_seconds: list[float]
    trl_seconds: list[float]
    trl_rows: int
    """Rows that TRL computes at once: the fastest number."""
    trl_seconds_by_rows: dict[int, float]
    our_loss: float
    trl_loss: float
    our_grad_norm: float
    trl_grad_norm: float

    @property
    def times_faster(self) -> float:
        """Median over the turns of TRL's seconds by ours."""
        return statistics.median(trl / ours for ours, trl in zip(self.our_seconds, self.trl_seconds, strict=True))


class OurStep:
    """The learner's step: advantages, packing, and ``train_step``."""

    def __init__(self, settings: RunFile) -> None:
        start_process_group()
        model, learner = settings.model, settings.learner
        policy = load_policy(
            model.path,
            precision=model.precision,
            freeze=model.freeze,
            logprob_chunk_tokens=learner.logprob_chunk_tokens,
        )
        self._rules = policy.packing_rules()
        self.algorithm = make_algorithm(learner.algorithm, max_tokens=settings.rollout.max_tokens)
        self._engine = TrainingEngine(policy, learner, precision=model.precision, num_steps=settings.run.steps)
        self._max_tokens = learner.micro_batch_tokens

    def step(self, batch: Batch) -> tuple[float, float, float]:
        """Train once; returns loss, gradient norm before clipping, and seconds."""
        started = time.monotonic()
        advantages = advantage_by_rollout(with_advantages(batch.outcomes, self.algorithm.advantages))
        micro_batches = pack_batch(batch, {}, advantages, self._max_tokens, self._rules)
        size = BatchSize(num_tokens=batch.num_global_tokens, num_rollouts=batch.num_global_rollouts)
        metrics = train_step(self._engine, micro_batches, self.algorithm, step=1, size=size).metrics
        return metrics["loss"], metrics["grad_norm"], time.monotonic() - started


def compare_with_trl(names: Sequence[str], *, num_threads: int, num_repeats: int) -> dict[str, Any]:
    """Compare on the cases of these names, print the table, and return what is to be written."""
    results = {}
    for name in names:
        say(f"{name}: {CASES[name].title}")
        results[name] = in_own_process(compare_case, CASES[name], num_threads=num_threads, num_repeats=num_repeats)
    print_table(list(results.values()))
    return {
        "version": version("trl"),
        "cases": {name: asdict(of) | {"times_faster": of.times_faster} for name, of in results.items()},
    }


def compare_case(case: Case, *, num_threads: int, num_repeats: int) -> CaseResult:
    """Compare on one case, in this process, which must be a fresh one.

    Raises:
        ValueError: losses or gradient norms differ, so that the steps do not do the same work.
    """
    torch.set_num_threads(num_threads)
    disable_progress_bar()
    with tempfile.TemporaryDirectory() as folder:
        settings = make_settings(case, Path(folder))
        make_checkpoint(case, settings.model.path)
        batch = make_batch(case, settings.model.path)
        trl = TrlStep(
            settings.model.path,
            Path(folder) / "trl",
            learning_rate=LEARNING_RATE,
            num_rows=case.num_rollouts,
            longest=case.longest,
        )
        ours = OurStep(settings)
        return _take_turns(case, ours, trl, batch, num_repeats)


def make_settings(case: Case, folder: Path) -> RunFile:
    """The defaults of a learner, for the model of a case."""
    overrides = [
        f"model.path={folder / 'model'}",
        "model.precision=fp32",
        f"rollout.max_tokens={case.longest}",
        f"learner.learning_rate={LEARNING_RATE}",
        "learner.warmup_steps=0",
    ]
    return load_demo(RUN, folder, overrides)


def _take_turns(case: Case, ours: OurStep, trl: TrlStep, batch: Batch, num_repeats: int) -> CaseResult:
    advantages = advantage_by_rollout(with_advantages(batch.outcomes, ours.algorithm.advantages))
    inputs = make_inputs(batch, advantages)
    our_loss, our_norm, _ = ours.step(batch)
    trl_loss, trl_norm, _ = trl.step(inputs)
    _require_same_work((our_loss, our_norm), (trl_loss, trl_norm))
    by_rows = find_fastest_rows(trl, inputs, case.num_rollouts)
    rows = min(by_rows, key=by_rows.__getitem__)
    trl.use_rows(rows)
    our_seconds, trl_seconds = [], []
    for number in range(1, num_repeats + 1):
        again, trl_again = ours.step(batch), trl.step(inputs)
        _require_same_work(again[:2], trl_again[:2])
        our_seconds.append(again[2])
        trl_seconds.append(trl_again[2])
        say(f"turn {number}/{num_repeats}: ours {again[2]:.2f} s, TRL {trl_again[2]:.2f} s, losses agree")
    return CaseResult(
        title=case.title,
        num_threads=torch.get_num_threads(),
        num_completion_tokens=batch.num_global_tokens,
        our_seconds=our_seconds,
        trl_seconds=trl_seconds,
        trl_rows=rows,
        trl_seconds_by_rows=by_rows,
        our_loss=our_loss,
        trl_loss=trl_loss,
        our_grad_norm=our_norm,
        trl_grad_norm=trl_norm,
    )


def find_fastest_rows(trl: TrlStep, inputs: dict[str, torch.Tensor], num_rollouts: int) -> dict[int, float]:
    """Seconds of TRL's step by the rows that it computes at once, the best of some rounds."""
    candidates = [rows for rows in range(1, num_rollouts + 1) if num_rollouts % rows == 0]
    seconds = dict.fromkeys(candidates, math.inf)
    for _ in range(NUM_ROUNDS):
        for rows in candidates:
            trl.use_rows(rows)
            seconds[rows] = min(seconds[rows], trl.step(inputs)[2])
    say("TRL by rows at once: " + ", ".join(f"{rows}: {value:.2f} s" for rows, value in seconds.items()))
    return seconds


def _require_same_work(ours: tuple[float, float], trl: tuple[float, float]) -> None:
    for name, mine, theirs in zip(("loss", "gradient norm"), ours, trl, strict=True):
        if not math.isclose(mine, theirs, rel_tol=TOLERANCE):
            raise ValueError(f"the {name} of the steps differs: {mine:.6g} is ours, {theirs:.6g} is TRL's")


def print_table(results: Sequence[CaseResult]) -> None:
    """Print a row for each case."""
    columns = ("case", "ours s/step", "TRL s/step", "times faster", "ours tok/s", "TRL tok/s", "TRL rows", "losses")
    rows = []
    for of in results:
        ours, trl = statistics.median(of.our_seconds), statistics.median(of.trl_seconds)
        rows.append(
            (
                of.title,
                f"{ours:.2f}",
                f"{trl:.2f}",
                f"{of.times_faster:.2f}",
                f"{of.num_completion_tokens / ours:,.0f}",
                f"{of.num_completion_tokens / trl:,.0f}",
                str(of.trl_rows),
                f"{of.our_loss:.5f} {of.trl_loss:.5f}",
            )
        )
    threads = results[0].num_threads
    show(
        make_table(f"one training step beside TRL {version('trl')}, {threads} threads, completion tok/s", columns, rows)
    )

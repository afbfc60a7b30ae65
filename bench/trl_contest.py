"""The learner's step beside TRL's on the same batch, in turns, in one process for each case."""

import math
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
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
from tristream.learner.training.packing import MicroBatch
from tristream.learner.training.train_step import BatchSize, train_step
from tristream.learner.training.trained_policy import load_policy
from tristream.wire.batches import Batch

RUN = ROOT / "examples/smollm2/run.toml"
LEARNING_RATE = 1e-12
"""So small that weights stay as they are: every step then has the same loss, and takes as long as with any other."""
TOLERANCE = 1e-3
"""Relative, of losses and gradient norms."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CaseResult:
    """What both steps took on the batch of one case."""

    title: str
    num_threads: int
    num_completion_tokens: int
    our_model_tokens: int
    """Tokens that the model computes in our step."""
    trl_model_tokens: int
    """The same of TRL's, padding too."""
    num_rounds: int
    """Times that TRL's step was tried with each number of rows."""
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
        micro_batches = self.pack(batch)
        size = BatchSize(num_tokens=batch.num_global_tokens, num_rollouts=batch.num_global_rollouts)
        metrics = train_step(self._engine, micro_batches, self.algorithm, step=1, size=size).metrics
        return metrics["loss"], metrics["grad_norm"], time.monotonic() - started

    def pack(self, batch: Batch) -> list[MicroBatch]:
        """The micro-batches of a batch."""
        advantages = advantage_by_rollout(with_advantages(batch.outcomes, self.algorithm.advantages))
        return pack_batch(batch, {}, advantages, self._max_tokens, self._rules)


def compare_with_trl(names: Sequence[str], *, num_threads: int, num_turns: int | None) -> dict[str, Any]:
    """Compare on the cases of these names, print the tables, and return what is to be written."""
    results = {}
    for name in names:
        case = CASES[name] if num_turns is None else replace(CASES[name], num_turns=num_turns)
        say(f"{name}: {case.title}")
        results[name] = in_own_process(compare_case, case, num_threads=num_threads)
    print_tables(list(results.values()))
    return {
        "version": version("trl"),
        "cases": {name: asdict(of) | {"times_faster": of.times_faster} for name, of in results.items()},
    }


def compare_case(case: Case, *, num_threads: int) -> CaseResult:
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
        return _take_turns(case, ours, trl, batch)


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


def _take_turns(case: Case, ours: OurStep, trl: TrlStep, batch: Batch) -> CaseResult:
    inputs = make_inputs(batch, advantage_by_rollout(with_advantages(batch.outcomes, ours.algorithm.advantages)))
    our_loss, our_norm, our_first = ours.step(batch)
    trl_loss, trl_norm, trl_first = trl.step(inputs)
    _require_same_work((our_loss, our_norm), (trl_loss, trl_norm))
    say(f"first steps: ours {our_first:.2f} s, TRL {trl_first:.2f} s, losses agree")
    by_rows = find_fastest_rows(case, trl, inputs)
    rows = min(by_rows, key=by_rows.__getitem__)
    trl.use_rows(rows)
    our_seconds, trl_seconds = [], []
    for number in range(1, case.num_turns + 1):
        again, trl_again = ours.step(batch), trl.step(inputs)
        _require_same_work(again[:2], trl_again[:2])
        our_seconds.append(again[2])
        trl_seconds.append(trl_again[2])
        say(f"turn {number}/{case.num_turns}: ours {again[2]:.2f} s, TRL {trl_again[2]:.2f} s, losses agree")
    return CaseResult(
        title=case.title,
        num_threads=torch.get_num_threads(),
        num_completion_tokens=batch.num_global_tokens,
        our_model_tokens=sum(micro_batch.num_tokens for micro_batch in ours.pack(batch)),
        trl_model_tokens=inputs["prompt_ids"].numel() + inputs["completion_ids"].numel(),
        num_rounds=case.num_rounds,
        our_seconds=our_seconds,
        trl_seconds=trl_seconds,
        trl_rows=rows,
        trl_seconds_by_rows=by_rows,
        our_loss=our_loss,
        trl_loss=trl_loss,
        our_grad_norm=our_norm,
        trl_grad_norm=trl_norm,
    )


def find_fastest_rows(case: Case, trl: TrlStep, inputs: dict[str, torch.Tensor]) -> dict[int, float]:
    """Seconds of TRL's step by the rows that it computes at once, the best of some rounds."""
    candidates = [rows for rows in range(1, case.num_rollouts + 1) if case.num_rollouts % rows == 0]
    seconds = dict.fromkeys(candidates, math.inf)
    for number in range(1, case.num_rounds + 1):
        for rows in candidates:
            trl.use_rows(rows)
            seconds[rows] = min(seconds[rows], trl.step(inputs)[2])
        words = ", ".join(f"{rows}: {value:.2f} s" for rows, value in seconds.items())
        say(f"TRL by rows at once, round {number}/{case.num_rounds}: {words}")
    return seconds


def _require_same_work(ours: tuple[float, float], trl: tuple[float, float]) -> None:
    for name, mine, theirs in zip(("loss", "gradient norm"), ours, trl, strict=True):
        if not math.isclose(mine, theirs, rel_tol=TOLERANCE):
            raise ValueError(f"the {name} of the steps differs: {mine:.6g} is ours, {theirs:.6g} is TRL's")


def print_tables(results: Sequence[CaseResult]) -> None:
    """Print how long the steps of each case took, and what they computed."""
    threads, trl = results[0].num_threads, f"TRL {version('trl')}"
    times = make_table(
        f"one training step beside {trl}, {threads} threads, completion tok/s",
        ("case", "ours s/step", "TRL s/step", "times faster", "ours tok/s", "TRL tok/s"),
        [],
    )
    work = make_table(
        "what the steps compute, and how often they ran",
        ("case", "our model tokens", "TRL's", "TRL rows", "rounds", "turns", "our loss", "TRL's"),
        [],
    )
    for of in results:
        ours, theirs = statistics.median(of.our_seconds), statistics.median(of.trl_seconds)
        rates = (f"{of.num_completion_tokens / seconds:,.0f}" for seconds in (ours, theirs))
        times.add_row(of.title, f"{ours:.2f}", f"{theirs:.2f}", f"{of.times_faster:.2f}", *rates)
        tokens = (f"{number:,}" for number in (of.our_model_tokens, of.trl_model_tokens))
        numbers = (str(number) for number in (of.trl_rows, of.num_rounds, len(of.our_seconds)))
        work.add_row(of.title, *tokens, *numbers, f"{of.our_loss:.5f}", f"{of.trl_loss:.5f}")
    show(times, work)

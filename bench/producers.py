"""Measure how much of its engine's rate a producer reaches: one function a row.

The transformers engine answers the demo's prompts; the lengths of the answers are spread 10 to 1, and no stop token
ends one. Rates are tokens by the CPU second of the thread that decodes, or of the process where the event loop works
too, so that neighbours on the machine disturb them little. Rows are measured in turns.
"""

import argparse
import asyncio
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from bench.measuring import DEMO, Goal, load_demo, make_table, say, show, write_results
from transformers.utils import logging as transformers_logging

from tristream.config.parts import DispatcherSettings
from tristream.config.run_file import RunFile
from tristream.dispatcher.prompt_making import PromptMaker
from tristream.policy.prompt_encoder import PromptEncoder
from tristream.producer.engines.protocol import GenerationRequest, WeightsFile
from tristream.producer.engines.stopping import StoppingRules
from tristream.producer.engines.transformers.decode_batch import Row
from tristream.producer.engines.transformers.decode_core import DecodeCore
from tristream.producer.engines.transformers.decoding_policy import DecodingPolicy, Prefilled, PreparedPrompt
from tristream.producer.engines.transformers.engine import TransformersEngine
from tristream.producer.engines.transformers.request_reading import RequestReader
from tristream.runtime.store import open_store
from tristream.wire.events import Progress

LIMIT_PERCENT = 95.0
SHORTEST, LONGEST = 12, 120
"""Tokens of the answers."""
NUM_STEADY_STEPS = 150
"""Steps after which the running rows are of all ages."""
NUM_FROZEN_STEPS = 8
"""Steps in which no row comes or goes: few, since all rows grow meanwhile."""
NUM_FREEZES = 6
NUM_THAWED_STEPS = 24
"""Steps between them, in which those come and go that would have."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rate:
    """What a row of the table reached in one round."""

    num_tokens: int
    seconds: float
    prefill_seconds: float = 0.0
    """Part of the seconds in which prompts were read."""
    idle_share: float = 0.0
    """Share of the slots that were empty while requests were waiting."""

    @property
    def tokens_per_second(self) -> float:
        """All of the seconds."""
        return self.num_tokens / self.seconds

    @property
    def decoded_per_second(self) -> float:
        """Without those in which prompts were read."""
        return self.num_tokens / (self.seconds - self.prefill_seconds)


class TimedPolicy(DecodingPolicy):
    """A policy that counts how long it read prompts."""

    prefill_seconds = 0.0

    def prefill(self, prompts: Sequence[PreparedPrompt]) -> list[Prefilled]:
        """Read prompts."""
        started = time.thread_time()
        prefilled = super().prefill(prompts)
        self.prefill_seconds += time.thread_time() - started
        return prefilled


class EndlessRules(StoppingRules):
    """No token of the model ends an answer, so that lengths are those that are wanted."""

    def __init__(self, encoder: PromptEncoder, generation_config: object) -> None:
        super().__init__(encoder, generation_config)
        self._token_ids = frozenset()


class Workload:
    """The demo's model, and requests made of its prompts."""

    def __init__(self, settings: RunFile) -> None:
        transformers_logging.disable_progress_bar()
        self.encoder = PromptEncoder(settings.model.path)
        self.policy = TimedPolicy(settings.model.path, settings.model.precision)
        self.weights = WeightsFile(path=settings.model.path / "model.safetensors")
        self.max_running = settings.rollout.engine.max_batch_size
        self._group_size = settings.rollout.group_size
        self._store = open_store(settings.store, settings.run.folder)
        self._maker = PromptMaker(DispatcherSettings.of(settings), self._store)
        self._rules = EndlessRules(self.encoder, self.policy.model.generation_config)
        self._num_prompts = 0

    def make_requests(self, lengths: Sequence[int]) -> list[GenerationRequest]:
        """Requests of fresh groups for so many tokens each."""
        requests: list[GenerationRequest] = []
        for start in range(0, len(lengths), self._group_size):
            prompt = self._maker.training_prompt(self._num_prompts, Progress(step=1, total_steps=1))
            self._num_prompts += 1
            images = tuple(self._store.read_image(image) for image in prompt.images)
            tokens = self.encoder.encode(prompt.messages, images).tokens
            for number, length in enumerate(lengths[start : start + self._group_size], start):
                sampling = replace(prompt.sampling, max_tokens=length, seed=number)
                name = f"{prompt.group.id}/{number}"
                requests.append(GenerationRequest(id=name, prompt_tokens=tokens, images=images, sampling=sampling))
        return requests

    def make_core(self, lengths: Sequence[int]) -> DecodeCore:
        """An engine without threads that has requests for so many tokens each to work on."""

        async def read() -> list[Row]:
            reader = RequestReader(self.encoder)
            return [
                Row(request=each, prompt=await reader.read(each), stopping=self._rules.of(each.sampling))
                for each in self.make_requests(lengths)
            ]

        core = DecodeCore(self.policy, max_running=self.max_running)
        core.update_weights(0, self.weights)
        for row in asyncio.run(read()):
            core.submit(row)
        return core

    def spread_lengths(self, num_batches: float) -> list[int]:
        """Lengths for so many full batches."""
        draw = random.Random(self._num_prompts)
        return [draw.randint(SHORTEST, LONGEST) for _ in range(int(num_batches * self.max_running))]


def bare_of_one_length(work: Workload) -> Rate:
    """Full batches of rows that begin together and are as long as the mean."""
    mean = (SHORTEST + LONGEST) // 2
    core = work.make_core([mean + 1] * work.max_running)
    core.step()
    return _timed(work, core, lambda: core.has_work)


def bare_of_all_lengths(work: Workload) -> Rate:
    """Full batches of the lengths that a fed engine has, while no row comes or goes."""
    core, rates = _steady(work, num_batches=7), []
    for _ in range(NUM_FREEZES):
        requests = [row.request for row in core.running]
        rows = list(core.running)
        for row in rows:
            row.request = replace(row.request, sampling=replace(row.request.sampling, max_tokens=10**6))
        rates.append(_timed(work, core, partial(next, iter([True] * NUM_FROZEN_STEPS), False)))
        for row, request in zip(rows, requests, strict=True):
            row.request = request
        for _ in range(NUM_THAWED_STEPS):
            core.step()
    return Rate(num_tokens=sum(rate.num_tokens for rate in rates), seconds=sum(rate.seconds for rate in rates))


def fed_core(work: Workload) -> Rate:
    """The engine without its thread, with requests always waiting."""
    core = _steady(work, num_batches=6)
    return _timed(work, core, lambda: core.num_waiting > 0)


def fed_engine(work: Workload) -> Rate:
    """The engine as a producer uses it: twice as many requests in work as it has slots."""
    return asyncio.run(_feed(work))


async def _feed(work: Workload) -> Rate:
    engine = TransformersEngine(work.encoder, work.policy, max_running=work.max_running)
    engine._stopping = EndlessRules(work.encoder, None)
    await engine.update_weights(0, work.weights)
    waiting = iter(work.make_requests(work.spread_lengths(6)))
    is_fed = True

    async def answer() -> None:
        nonlocal is_fed
        for request in waiting:
            await engine.generate(request)
        is_fed = False

    tasks = [asyncio.create_task(answer()) for _ in range(2 * work.max_running)]
    while engine.counts.sampled_tokens < NUM_STEADY_STEPS * work.max_running:
        await asyncio.sleep(0.01)
    # The whole process counts: the event loop takes time of the same cores.
    before, cpu, prefill, running = engine.counts.sampled_tokens, time.process_time(), work.policy.prefill_seconds, []
    while is_fed:
        await asyncio.sleep(0.01)
        running.append(engine.num_running)
    rate = Rate(
        num_tokens=engine.counts.sampled_tokens - before,
        seconds=time.process_time() - cpu,
        prefill_seconds=work.policy.prefill_seconds - prefill,
        idle_share=1 - statistics.fmean(running) / work.max_running,
    )
    for task in tasks:
        task.cancel()
    await engine.close()
    return rate


def _steady(work: Workload, num_batches: float) -> DecodeCore:
    core = work.make_core(work.spread_lengths(num_batches))
    for _ in range(NUM_STEADY_STEPS):
        core.step()
    return core


def _timed(work: Workload, core: DecodeCore, goes_on: Callable[[], bool]) -> Rate:
    started, prefill, before = time.thread_time(), work.policy.prefill_seconds, core.counts.sampled_tokens
    num_steps = 0
    while goes_on():
        core.step()
        num_steps += 1
    num_tokens = core.counts.sampled_tokens - before
    return Rate(
        num_tokens=num_tokens,
        seconds=time.thread_time() - started,
        prefill_seconds=work.policy.prefill_seconds - prefill,
        idle_share=1 - num_tokens / (num_steps * work.max_running),
    )


ROWS: dict[str, Callable[[Workload], Rate]] = {
    "bare: decode steps, rows of one length": bare_of_one_length,
    "bare: decode steps, rows of all lengths": bare_of_all_lengths,
    "engine, fed, without its thread": fed_core,
    "engine, fed": fed_engine,
}
BARE = "bare: decode steps, rows of all lengths"
JUDGED = "engine, fed"


def median(rates: Sequence[Rate], of: Callable[[Rate], float]) -> float:
    """The median over the rounds."""
    return statistics.median(map(of, rates))


def measure(work: Workload, num_rounds: int) -> dict[str, list[Rate]]:
    """All rows in turns; the first round warms up."""
    rates: dict[str, list[Rate]] = {name: [] for name in ROWS}
    for number in range(num_rounds + 1):
        for name, function in ROWS.items():
            rate = function(work)
            say(f"round {number}/{num_rounds}, {name}: {rate.tokens_per_second:,.0f} tokens by CPU second")
            if number:
                rates[name].append(rate)
    return rates


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench.producers", description="Measure how much of its engine's rate a producer reaches."
    )
    parser.add_argument(
        "--run", type=Path, default=DEMO, help="run file of the model and the prompts (default: digits)"
    )
    parser.add_argument("--rounds", type=int, default=3, help="timed rounds, 1 or more (default: 3)")
    parser.add_argument("--threads", type=int, default=1, help="torch threads (default: 1)")
    arguments = parser.parse_args()
    if arguments.rounds < 1:
        parser.error("--rounds is 1 or more")
    return arguments


def main() -> None:
    """Measure, print, write ``bench/results/producers.json``."""
    arguments = parse_arguments()
    torch.set_num_threads(arguments.threads)
    with tempfile.TemporaryDirectory() as folder:
        rates = measure(Workload(load_demo(arguments.run, Path(folder))), arguments.rounds)
    bare = median(rates[BARE], lambda rate: rate.tokens_per_second)
    summary = {
        name: {
            "tokens_per_cpu_second": median(of, lambda rate: rate.tokens_per_second),
            "without_prefill": median(of, lambda rate: rate.decoded_per_second),
            "idle_share": median(of, lambda rate: rate.idle_share),
        }
        for name, of in rates.items()
    }
    columns = ("", "tokens/CPU s", "% of bare", "without prefill", "% of bare", "idle slots %")
    lines = [
        (
            name,
            f"{row['tokens_per_cpu_second']:,.0f}",
            f"{100 * row['tokens_per_cpu_second'] / bare:.1f}",
            f"{row['without_prefill']:,.0f}",
            f"{100 * row['without_prefill'] / bare:.1f}",
            f"{100 * row['idle_share']:.1f}",
        )
        for name, row in summary.items()
    ]
    goal = Goal(
        name="the fed engine's tokens/s of its bare decode rate",
        measured_percent=100 * summary[JUDGED]["without_prefill"] / bare,
        limit_percent=LIMIT_PERCENT,
        is_upper_limit=False,
    )
    show(make_table(f"answers of {SHORTEST} to {LONGEST} tokens", columns, lines))
    print(goal)
    facts = {"percent_of_bare": goal.measured_percent, "at_least": goal.limit_percent, "met": goal.is_met}
    results = {"threads": arguments.threads, "rounds": arguments.rounds, "summary": summary, "goal": facts}
    print(f"written to {write_results('producers', results)}")


if __name__ == "__main__":
    main()

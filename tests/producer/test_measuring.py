"""Shares and rates are those of the time that they are said for."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from producer_run import MakeImage, ProducerRun
from table_engine import TableEngine
from tristream.config.run_file import RunFile
from tristream.producer.measuring import Meter
from tristream.producer.rollout_making import make_failed_rollout
from tristream.wire.arrays import LogProbs, Tokens
from tristream.wire.events import Prompt, Rollout, sampled


@pytest.fixture
def run(make_settings: Callable[..., RunFile], make_image: MakeImage) -> ProducerRun:
    return ProducerRun(make_settings(), make_image)


class Clock:
    def __init__(self) -> None:
        self.seconds = 100.0

    def __call__(self) -> float:
        return self.seconds


def make_rollout(prompt: Prompt, num_tokens: int) -> Rollout:
    segment = sampled(Tokens.of([1] * num_tokens), LogProbs.of([-1.0] * num_tokens), ())
    return replace(make_failed_rollout(prompt, 0, producer="", error=""), segments=(segment,))


def test_idle_share_weighs_free_slots_by_time_and_counts_none_without_work(run: ProducerRun) -> None:
    engine, clock = TableEngine(run.encoder, max_running=4), Clock()
    meter, prompt = Meter(engine=engine, now=clock), run.training_prompt(0, size=4)
    meter.measures()
    clock.seconds += 5.0  # nothing to do
    meter.note_taken(prompt)
    clock.seconds += 1.0  # four free slots for a second
    engine.num_running = 4
    meter.watch()
    clock.seconds += 2.0  # none for two
    engine.num_running = 1
    meter.note_generated(make_rollout(prompt, 3))
    clock.seconds += 1.0  # three of four for a second
    assert meter.measures()["idle_share"] == pytest.approx((1.0 + 0.75) / 4, abs=1e-4)
    assert (meter.measures()["num_running"], meter.measures()["num_waiting"]) == (1, 2)


def test_rates_are_those_of_the_last_seconds_by_source(run: ProducerRun) -> None:
    clock = Clock()
    meter = Meter(engine=TableEngine(run.encoder), now=clock)
    sums, counts = run.training_prompt(0), run.training_prompt(1, source="counts")
    meter.measures()
    for _ in range(30):
        clock.seconds += 1.0
        meter.note_taken(sums)
        meter.note_generated(make_rollout(sums, 7))
        if clock.seconds > 120:
            meter.note_taken(counts)
            meter.note_generated(make_rollout(counts, 30))
        measures = meter.measures()
    assert measures["tokens_per_second/sums"] == pytest.approx(7, abs=0.7)
    assert measures["tokens_per_second/counts"] == pytest.approx(30, abs=3)
    assert measures["tokens_per_second"] == pytest.approx(37, abs=3.7)
    clock.seconds += 20.0
    meter.measures()
    clock.seconds += 1.0
    assert meter.measures()["tokens_per_second"] == 0


def test_the_share_of_cached_prompts_is_the_engines(run: ProducerRun) -> None:
    engine = TableEngine(run.encoder)
    engine.counts.prompt_tokens, engine.counts.cached_prompt_tokens = 200, 50
    assert Meter(engine=engine).measures()["cached_prompt_share"] == 0.25

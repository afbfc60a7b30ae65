"""A run of 10,000 steps: what the page needs first costs less than a second of one processor."""

import time
from collections.abc import Callable
from typing import Any

import pytest

from tristream.config.run_file import RunFile
from tristream.monitoring.metrics import SOURCE_METRICS
from tristream.monitoring.page.answer_cache import to_json
from tristream.monitoring.queries.curves import read_curves
from tristream.monitoring.queries.overview import read_evaluation, read_head
from tristream.monitoring.store.client import Client
from tristream.monitoring.store.run_facts import write_sources
from tristream.monitoring.store.writer import Writer

NUM_STEPS = 10_000
NUM_POINTS = 200
"""What the page asks for at first."""

STEPS = """
    INSERT INTO steps (run, step, total_steps, metrics, phase_seconds, num_completion_tokens, max_age, created, rank)
    SELECT
        {run:String}, number + 1, 10000, map('loss', 1 / (number + 1)), map('wait', 1.0), 4000, 1,
        toDateTime64('2026-01-01 00:00:00', 9, 'UTC') + INTERVAL number SECOND, 1
    FROM numbers(10000)
"""
CLOSINGS = """
    INSERT INTO closings (run, kind, key, closing, created)
    SELECT {run:String}, 'step', number + 1, 1, now64(9) FROM numbers(10000)
"""
SOURCE_STEPS = """
    INSERT INTO closed_source_steps
        (run, source, step, created, num_rollouts, mean_reward, mean_length, entropy, closing)
    SELECT
        {run:String}, {source:String}, number + 1, now64(9), 32,
        if(number = 7777, -5, 0.5 + (number % 10) / 100), 20, 1, 1
    FROM numbers(10000)
"""
SOURCE_GROUPS = """
    INSERT INTO closed_source_groups (run, source, step, created, num_judged, judged_reward, closing)
    SELECT {run:String}, {source:String}, number + 1, now64(9), 64, number / 10000, 1 FROM numbers(10000)
"""


@pytest.fixture
def long_run(client: Client, settings: RunFile) -> str:
    """The closed figures of 10,000 steps of four sources."""
    run = settings.run.id
    write_sources(Writer(client, run, report=print), run, settings.sources)
    for query in (STEPS, CLOSINGS):
        client.command(query, {"run": run})
    for source in settings.sources:
        for query in (SOURCE_STEPS, SOURCE_GROUPS):
            client.command(query, {"run": run, "source": source.name})
    return run


def cpu_seconds(ask: Callable[[], Any]) -> tuple[Any, float]:
    """What it answers, and the processor time of this process, the engine within, until it did."""
    began = time.process_time()
    return ask(), time.process_time() - began


def test_head_and_first_curves_take_less_than_a_second(client: Client, long_run: str) -> None:
    def ask() -> list[bytes]:
        head = to_json(read_head(client, long_run))
        rounds = to_json(read_evaluation(client, long_run))
        return [head, rounds, to_json(read_curves(client, long_run, NUM_POINTS, parts=["main"]))]

    answers, seconds = cpu_seconds(ask)
    assert seconds < 1.0
    assert sum(len(answer) for answer in answers) < 1_500_000


def test_all_curves_are_thin_and_keep_the_one_step_that_stands_out(client: Client, long_run: str) -> None:
    curves, seconds = cpu_seconds(lambda: read_curves(client, long_run, NUM_POINTS))
    assert seconds < 3.0
    assert set(curves["sources"]) == {metric.name for metric in SOURCE_METRICS}
    reward = curves["sources"]["mean_reward"]["digits_sum"]
    assert len(reward["x"]) == NUM_POINTS
    assert min(reward["low"]) == -5
    assert min(reward["y"]) > 0
    near = read_curves(client, long_run, NUM_POINTS, parts=["main"], first=7700, last=7800)
    worst = near["sources"]["mean_reward"]["digits_sum"]
    assert worst["x"][worst["y"].index(-5.0)] == 7778

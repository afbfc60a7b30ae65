"""A run of 10,000 steps: what the page needs is small, and keeps what stands out."""

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


def test_head_and_first_curves_are_as_small_as_of_a_short_run(client: Client, long_run: str) -> None:
    head, rounds = read_head(client, long_run), read_evaluation(client, long_run)
    curves = read_curves(client, long_run, NUM_POINTS, parts=["main"])
    assert sum(len(to_json(answer)) for answer in (head, rounds, curves)) < 500_000


def test_all_curves_are_thin_and_keep_the_one_step_that_stands_out(client: Client, long_run: str) -> None:
    curves = read_curves(client, long_run, NUM_POINTS)
    assert set(curves["sources"]) == {metric.name for metric in SOURCE_METRICS}
    reward = curves["sources"]["mean_reward"]["digits_sum"]
    assert len(reward["x"]) == NUM_POINTS
    assert min(reward["low"]) == -5
    assert min(reward["y"]) > 0
    near = read_curves(client, long_run, NUM_POINTS, parts=["main"], first=7700, last=7800)
    worst = near["sources"]["mean_reward"]["digits_sum"]
    assert worst["x"][worst["y"].index(-5.0)] == 7778

"""What is read of a run around a step is read by its key, however long the run is."""

import pytest

from tristream.monitoring.queries.why import reading
from tristream.monitoring.queries.why.explanation import Explanation
from tristream.monitoring.store.client import Client

RANGES = {"run": "x", "source": "", "low": 100, "high": 200, "stride": 1, "first": 1, "last": 9}


@pytest.mark.parametrize("name", ["_DROPPED", "_PROMPTS", "_ROLLOUTS", "_REWARDS"])
def test_groups_are_read_by_a_range_of_the_key(client: Client, truncated: Explanation, name: str) -> None:
    query = f"EXPLAIN indexes = 1 {getattr(reading, name)}"
    plan = "\n".join(row[0] for row in client.query(query, {**RANGES, "run": truncated.run}).result_rows)
    condition = next(line for line in plan.splitlines() if "Condition" in line and "number" in line)
    bounds = ("number in [100, +Inf)", "number in (-Inf, 200]")
    for key in ("run in", "split in", "eval_step in", "eval_attempt in", *bounds):
        assert key in condition, plan


def test_steps_are_read_by_a_range_of_the_key(client: Client, truncated: Explanation) -> None:
    query = f"EXPLAIN indexes = 1 {reading._STEPS}"
    plan = "\n".join(row[0] for row in client.query(query, {**RANGES, "run": truncated.run}).result_rows)
    assert any("Condition" in line and "step in" in line for line in plan.splitlines()), plan

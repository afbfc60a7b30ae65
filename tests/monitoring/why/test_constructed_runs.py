"""Constructed runs: what was injected is named first, two things are both named, and quiet runs name nothing."""

from collections.abc import Callable, Sequence

import pytest

from tristream.monitoring.queries.why.explanation import QUIET, Explanation
from why_runs import SCENARIOS, Scenario

Explain = Callable[[str, Sequence[Scenario], int], Explanation]

PAIRS = [
    ("threshold 0.95 -> 0.99", "outage"),
    ("truncation", "verifier"),
    ("learning_rate", "coverage"),
]


def kind_of(name: str) -> str:
    return name.split(maxsplit=1)[0].rstrip(":")


def run_name(name: str, seed: int) -> str:
    return f"why-{''.join(c if c.isalnum() else '-' for c in name)}" + ("" if seed == 1 else f"-{seed}")


@pytest.mark.parametrize("name", SCENARIOS)
def test_the_injected_cause_is_named_first(name: str, explain_run: Explain) -> None:
    found = explain_run(run_name(name, 1), SCENARIOS[name], 1)
    first = found.causes[0]
    assert (first.kind, first.stands_out) == (kind_of(name), True), found.verdict
    assert first.detail in found.verdict


@pytest.mark.parametrize(("one", "other"), PAIRS)
def test_two_causes_are_named_before_all_others(one: str, other: str, explain_run: Explain) -> None:
    found = explain_run(run_name(f"{one} and {other}", 3), (*SCENARIOS[one], *SCENARIOS[other]), 3)
    assert {cause.kind for cause in found.causes[:2]} == {kind_of(one), kind_of(other)}, found.verdict
    assert all(cause.stands_out for cause in found.causes[:2])


@pytest.mark.parametrize("seed", [1, 2])
def test_nothing_stands_out_in_a_quiet_run(seed: int, explain_run: Explain) -> None:
    found = explain_run(f"why-quiet-{seed}", (), seed)
    assert found.verdict.startswith(QUIET), found.verdict
    assert not any(cause.stands_out for cause in found.causes)


def test_causes_add_up_to_the_change_and_shares_to_one(truncated: Explanation) -> None:
    change = truncated.change
    assert sum(cause.delta for cause in truncated.causes) == pytest.approx(change.after - change.before, abs=1e-9)
    assert sum(cause.share for cause in truncated.causes) == pytest.approx(1)

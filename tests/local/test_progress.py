"""What a run shows: short, complete, and right without a terminal too."""

import io
from typing import Any

import pytest
from rich.console import Console

from tristream.local.held_out import complete_rounds
from tristream.local.progress import Pace, Progress, picture, status_line

STATUSES: dict[str, dict[str, Any]] = {
    "learner": {
        "state": "ready", "version": 12, "total": 60, "reward": {"digits_read": 0.75, "digits_find": 0.25},
        "tokens_per_second": 1834.2, "staleness": 1,
    },
    "dispatcher": {"state": "ready", "waiting_for": "policy version 13 (staleness bound)"},
}  # fmt: skip
HELD_OUT: dict[str, dict[str, Any]] = {
    "digits_read": {"before": {"eval_step": 0, "value": 0.5}, "now": {"eval_step": 10, "value": 0.9}},
    "digits_find": {"before": {"eval_step": 0, "value": 0.125}, "now": {"eval_step": 0, "value": 0.125}},
    "digits_sum": {"before": None, "now": None},
}


def test_a_plain_line_says_how_far_how_good_how_fast_and_what_waits() -> None:
    line = status_line(STATUSES, "40 s left")
    assert line == (
        "step 12/60; reward 0.50 (digits_read 0.75, digits_find 0.25); 1834 tokens/s, staleness 1; 40 s left; "
        "dispatcher waits for policy version 13 (staleness bound)"
    )


def test_the_picture_fits_a_small_terminal() -> None:
    console = Console(file=io.StringIO(), width=60, force_terminal=True, color_system=None)
    console.print(picture(STATUSES, HELD_OUT, "40 s left"))
    assert isinstance(console.file, io.StringIO)
    lines = console.file.getvalue().splitlines()
    assert len(lines) <= 12
    assert all(len(line) <= 60 for line in lines)
    assert "0.500 -> 0.900" in console.file.getvalue()


def test_parts_that_start_are_named_with_what_they_wait_for() -> None:
    console = Console(file=io.StringIO(), width=200)
    progress = Progress(console)
    for _ in range(2):
        progress.show_starting({"monitor": {"waiting_for": "ClickHouse"}, "learner": {}})
    assert isinstance(console.file, io.StringIO)
    assert console.file.getvalue() == "waiting for monitor (ClickHouse), learner\n"


def test_the_rest_is_told_from_the_pace_of_the_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr("tristream.local.progress.time.monotonic", lambda: now)
    pace = Pace()
    assert pace.describe_rest(60) == ""
    for step in (1, 2, 3):
        now += 2.0
        pace.observe(step)
    assert pace.describe_rest(10) == "20 s left"
    assert pace.describe_rest(60) == "2 min left"
    assert pace.describe_rest(0) == ""


def test_a_round_counts_once_all_sources_have_completed_it() -> None:
    def row(step: int, value: float, complete: bool) -> dict[str, object]:
        return {"eval_step": step, "value": value, "is_complete": complete}

    sources = {
        "read": {"rounds": [row(0, 0.25, True), row(10, 0.5, True)]},
        "sum": {"rounds": [row(0, 0.75, True), row(10, 0.5, False)]},
    }
    assert complete_rounds(sources) == {0: {"read": 0.25, "sum": 0.75}}

"""What a run shows: short, complete, and right without a terminal too."""

import io
from typing import Any

import pytest
from rich.console import Console

from statuses import make_status
from tristream.local.progress_display import Pace, Progress, ProgressDisplay, picture, status_words
from tristream.local.source_fates import SourceFate
from tristream.wire.events import Part

STATUSES = {
    Part.DISPATCHER: [make_status(Part.DISPATCHER, waiting_for="policy version 13 (staleness bound)")],
    Part.PRODUCER: [make_status(Part.PRODUCER, "a", started_ns=1), make_status(Part.PRODUCER, "b", started_ns=2)],
    Part.ASSEMBLER: [
        make_status(
            Part.ASSEMBLER,
            measures={
                "groups/trained": 48, "groups/zero_variance": 5, "groups/stale": 1,
                "judged_reward/digits_read": 0.75, "judged_reward/digits_find": 0.25,
            },
        )
    ],
    Part.LEARNER: [
        make_status(
            Part.LEARNER,
            measures={
                "version": 12, "total_steps": 60, "tokens_per_second": 1834.2, "staleness": 1,
                "trained_reward/digits_read": 0.5, "trained_reward/digits_find": 0.46,
            },
        )
    ],
}  # fmt: skip
HELD_OUT: dict[str, dict[str, Any]] = {
    "digits_read": {"before": {"eval_step": 0, "value": 0.5}, "now": {"eval_step": 10, "value": 0.9}},
    "digits_find": {"before": {"eval_step": 0, "value": 0.125}, "now": {"eval_step": 0, "value": 0.125}},
    "digits_sum": {"before": None, "now": None},
}

FATES = [
    SourceFate(source="digits_read", dropped={"zero_variance": 0.25}, all_wrong=0.0),
    SourceFate(
        source="digits_sum", dropped={"zero_variance": 0.88, "stale": 0.03}, all_wrong=0.88,
        paused="its last 64 groups were dropped as zero_variance", answer="1 + 4 = 5", truth=r"\boxed{5}",
    ),
]  # fmt: skip


def test_a_plain_line_says_how_far_how_good_how_fast_what_is_dropped_and_what_waits() -> None:
    assert "; ".join(status_words(Progress(statuses=STATUSES), "40 s left")) == (
        "step 12/60; reward of all judged 0.50 (digits_find 0.25, digits_read 0.75), of trained only 0.48; "
        "1834 tokens/s, staleness 1; "
        "dropped 1 stale, 5 zero_variance; 2 producers; 40 s left; "
        "dispatcher waits for policy version 13 (staleness bound)"
    )


def test_a_run_of_which_little_is_known_is_shown_too() -> None:
    assert status_words(Progress(statuses={}), "") == ["step 0/?"]
    waiting = {Part.LEARNER: [make_status(Part.LEARNER, waiting_for="the model")]}
    assert status_words(Progress(statuses=waiting), "") == ["step 0/?", "learner waits for the model"]


def test_parts_that_wait_for_the_broker_are_named_together() -> None:
    waiting = {
        part: [make_status(part, waiting_for=f"the broker at 127.0.0.1:9092 (no answer for {seconds} s)")]
        for part, seconds in ((Part.PRODUCER, 9), (Part.LEARNER, 11))
    }
    trouble = "the broker at 127.0.0.1:9092 does not answer"
    assert status_words(Progress(statuses=waiting, trouble=trouble), "") == [
        "step 0/?", trouble, "producer, learner wait for the broker",
    ]  # fmt: skip


def test_the_picture_fits_a_small_terminal() -> None:
    console = Console(file=io.StringIO(), width=60, force_terminal=True, color_system=None)
    progress = Progress(statuses=STATUSES, held_out=HELD_OUT, fates=FATES)
    console.print(picture(progress, "40 s left"))
    assert isinstance(console.file, io.StringIO)
    lines = console.file.getvalue().splitlines()
    assert len(lines) <= 14
    assert all(len(line) <= 60 for line in lines)
    assert "step 12/60" in lines[0]
    assert "0.500 -> 0.900" in console.file.getvalue()
    sums = next(line for line in lines if line.startswith("digits_sum "))
    assert sums.split()[-2:] == ["91%", "88%"]
    assert any("is paused: its last 64 groups were dropped" in line for line in lines)


def test_a_plain_line_repeats_the_step_and_of_the_rest_only_what_is_new(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr("tristream.local.progress_display.time.monotonic", lambda: now)
    console = Console(file=io.StringIO(), width=300)
    display = ProgressDisplay(console)
    progress = Progress(statuses=STATUSES, fates=FATES)

    def said() -> str:
        assert isinstance(console.file, io.StringIO)
        text = console.file.getvalue()
        console.file.seek(0)
        console.file.truncate()
        return text

    display.show(progress)
    first = said()
    assert "dispatcher waits for" in first
    assert first.count("digits_sum is paused") == 1
    now += 11.0
    display.show(progress)
    assert said() == "", "nothing is new"
    now += 50.0
    display.show(progress)
    assert said() == "step 12/60\n"
    now += 11.0
    display.show(Progress(statuses=STATUSES, trouble="the broker at x does not answer"))
    assert said() == "step 12/60; the broker at x does not answer\n"


def test_parts_that_start_are_named_with_what_they_wait_for() -> None:
    console = Console(file=io.StringIO(), width=200)
    display = ProgressDisplay(console)
    for _ in range(2):
        display.show_starting({Part.MONITOR: "ClickHouse", Part.LEARNER: ""})
    assert isinstance(console.file, io.StringIO)
    assert console.file.getvalue() == "waiting for monitor (ClickHouse), learner\n"


def test_the_rest_is_told_from_the_pace_of_the_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr("tristream.local.progress_display.time.monotonic", lambda: now)
    pace = Pace()
    assert pace.describe_rest(60) == ""
    for step in (1, 2, 3):
        now += 2.0
        pace.observe(step)
    assert pace.describe_rest(10) == "20 s left"
    assert pace.describe_rest(60) == "2 min left"
    assert pace.describe_rest(0) == ""

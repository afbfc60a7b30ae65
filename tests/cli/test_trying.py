"""``tristream try``: what it prints, its exit codes, and that it leaves nothing behind."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from tried_groups import make_failed_group, make_group
from tristream.cli import trying_report
from tristream.cli.trying_display import describe_source, picture
from tristream.cli.trying_report import print_json, print_report, printable, shorten
from tristream.config.run_file import RunFile
from tristream.local.trying.figures import compute_figures
from tristream.local.trying.judged_groups import JudgedGroup
from tristream.local.trying.tryout import Tryout

MakeSettings = Callable[..., RunFile]
MakeTryout = Callable[[list[JudgedGroup]], Tryout]
TEST_SECONDS = 240


@pytest.fixture
def run_file(make_settings: MakeSettings, tmp_path: Path) -> Path:
    path = tmp_path / "run.json"
    path.write_text(make_settings().model_dump_json(), encoding="utf-8")
    return path


@pytest.fixture
def make_tryout(make_settings: MakeSettings) -> MakeTryout:
    def make(groups: list[JudgedGroup]) -> Tryout:
        return Tryout(settings=make_settings(), num_groups=4, groups={"sums": groups, "counts": []}, max_running=8)

    return make


def printed(tryout: Tryout, width: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> str:
    monkeypatch.setattr(trying_report, "open_console", lambda: Console(width=width, highlight=False, markup=False))
    print_report(tryout)
    return capsys.readouterr().out


def try_command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "tristream.cli", "try", *arguments]


@pytest.mark.parametrize("width", [80, 120])
def test_the_report_fits_into_the_terminal_and_says_what_to_do(
    width: int, make_tryout: MakeTryout, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    mixed = make_group([0.0, 1.0, 0.0, 0.0], number=0, texts=["4", "The sum is\n\\boxed{4}", "5", "5"])
    wrong = [make_group([0.0] * 4, number=number, texts=["4"] * 4) for number in (1, 2, 3)]
    text = printed(make_tryout([mixed, *wrong]), width, monkeypatch, capsys)
    assert max(map(len, text.splitlines())) <= width
    words = " ".join(text.split())
    for expected in (
        "groups mixed all right all wrong reward",
        "sums 4 1 0 3 0.06",
        "accuracy 0.06",
        "sums, right: reward 1.00, accuracy 1",
        "sums, wrong: reward 0.00, accuracy 0",
        "asked What is 0 + 1?",
        "wanted 1",
        "The sum is \\boxed{4}",
        "3 of 4 groups are all wrong",
        "-> ask for \\boxed{...} in the prompt",
        "steps an hour of these sources alone: 25% of the groups are kept.",
        "It leaves out scoring, learning",
    ):
        assert expected in words
    assert "unscored" not in words, "columns without anything in them are left out"


def test_without_a_mixed_group_nothing_would_be_trained(
    make_tryout: MakeTryout, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tryout = make_tryout([make_group([0.0] * 4), make_failed_group(error="an image\x1b[2J is damaged")])
    text = printed(tryout, 120, monkeypatch, capsys)
    assert "Nothing would be trained: no group is mixed." in text
    assert "\x1b" not in text
    assert not tryout.can_learn


def test_answers_without_a_reward_show_their_verdict(
    make_tryout: MakeTryout, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = " ".join(printed(make_tryout([make_group([None, None])]), 120, monkeypatch, capsys).split())
    assert "sums, without a reward" in words
    assert "unscorable math: the truth is none" in words


def test_an_interrupted_tryout_says_what_is_missing(
    make_tryout: MakeTryout, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tryout = make_tryout([make_group([0.0, 1.0])])
    tryout.is_interrupted = True
    text = printed(tryout, 120, monkeypatch, capsys)
    assert text.startswith(
        "interrupted, so these are not tried to the end: sums (1 of 4 groups), counts (0 of 4 groups)"
    )
    nothing = make_tryout([])
    nothing.is_interrupted, nothing.phase = True, "loading the model"
    text = printed(nothing, 120, monkeypatch, capsys)
    assert text == "interrupted before any group was judged (loading the model)\n"


def test_json_has_all_figures(make_tryout: MakeTryout, capsys: pytest.CaptureFixture[str]) -> None:
    print_json(make_tryout([make_group([0.0, 1.0]), make_group([None, 1.0])]))
    found = json.loads(capsys.readouterr().out)
    assert (found["can_learn"], found["interrupted"], found["groups_wanted"]) == (True, False, 4)
    assert found["pace"]["kept_share"] == 0.5
    sums, counts = found["sources"]
    assert (sums["groups"], sums["unscored"]["unscorable"]["num_verdicts"]) == ({"mixed": 1, "unscored": 1}, 1)
    assert [answer["caption"] for answer in sums["answers"]] == ["right", "wrong"]
    assert sums["advice"][0]["topic"] == "unscored"
    assert (counts["num_groups"], counts["answers"], counts["advice"]) == (0, [], [])


def test_progress_is_a_table_and_a_line(make_tryout: MakeTryout, capsys: pytest.CaptureFixture[str]) -> None:
    tryout = make_tryout([make_group([0.0, 1.0])])
    tryout.phase, tryout.source, tryout.num_answered = "sums is tried", "sums", 5
    Console(width=80).print(picture(tryout))
    assert "sums is tried: 5 of 12 answers" in capsys.readouterr().out
    line = describe_source(compute_figures("sums", [make_group([0.0, 1.0]), make_group([0.0, 0.0], number=1)]))
    assert line == "sums: 2 groups (1 mixed, 1 all wrong), reward 0.25, 3.0 s"


def test_texts_are_shown_as_they_are_but_for_what_moves_a_cursor() -> None:
    assert printable("a\tb\x1b[2J\nc\n") == "a\\tb\\x1b[2J\nc"
    assert shorten("a\n b") == "a b"
    assert len(shorten("word " * 1000)) < 310


def test_the_command_tells_a_model_that_never_boxes_and_writes_nothing(run_file: Path, tmp_path: Path) -> None:
    before = set(tmp_path.rglob("*"))
    done = subprocess.run(
        try_command(str(run_file), "-n", "2", "--source", "counts", "--json"),
        check=False, capture_output=True, text=True, cwd=tmp_path, timeout=TEST_SECONDS,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    )  # fmt: skip
    assert done.returncode == 1, done.stderr
    (counts,) = json.loads(done.stdout)["sources"]
    assert (counts["source"], counts["groups"]) == ("counts", {"all_wrong": 2})
    assert r"0 of 6 answers have \boxed{...}" in counts["advice"][0]["what"]
    assert "loading the model" in done.stderr
    assert "counts: 2 groups (2 all wrong), reward 0.00" in done.stderr
    assert set(tmp_path.rglob("*")) == before


def test_bad_input_is_one_line_and_exit_code_2(run_file: Path, tmp_path: Path) -> None:
    for arguments, words in (
        ([str(run_file), "--source", "none"], "there is no source 'none'; use sums, counts"),
        ([str(tmp_path / "absent.toml")], "absent.toml: no such file"),
        (
            [str(run_file), "--set", 'rollout.engine={type="vllm", python="/nowhere/python"}'],
            "[rollout.engine] python = /nowhere/python: it cannot be started (No such file or directory)",
        ),
    ):
        done = subprocess.run(
            try_command(*arguments), check=False, capture_output=True, text=True, timeout=TEST_SECONDS
        )
        assert done.returncode == 2
        assert words in done.stderr.splitlines()[-1]


def test_an_interrupted_command_shows_what_there_is_and_ends_with_130(run_file: Path) -> None:
    process = subprocess.Popen(
        try_command(str(run_file), "-n", "2000"), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    deadline = time.monotonic() + TEST_SECONDS
    line = ""
    while "sums is tried:" not in line and time.monotonic() < deadline:
        line = process.stderr.readline()
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=TEST_SECONDS)
    assert process.returncode == 130
    assert "interrupted, so these are not tried to the end: sums (" in out
    assert "all wrong" in out

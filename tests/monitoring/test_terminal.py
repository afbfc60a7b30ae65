"""Runs in the terminal: ``top``, ``runs``, ``compare``, ``show`` and ``report`` on a run that is in a database."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from typer.testing import CliRunner, Result

from tristream.cli.main import app
from tristream.cli.rollout_display import parse_key
from tristream.cli.run_comparison import find_differences, flatten_settings, shared_ranges
from tristream.cli.run_listing import format_age, format_change
from tristream.cli.top_picture import describe_lag, describe_rest, format_duration, picture, sparkline
from tristream.cli.top_watching import RunLook
from tristream.config.run_file import RunFile
from tristream.monitoring.queries.snapshot import read_snapshot
from tristream.monitoring.store.client import Client
from tristream.runtime.bus.memory import MemoryBus
from tristream.runtime.errors import UserError
from tristream.runtime.run_folder import RunFolder
from tristream.wire import topics
from tristream.wire.events import Part

SUMMARY = {
    "run": "example",
    "steps": 6,
    "sources": {"a": {"metric": "accuracy", "eval_before": 0.25, "eval_after": 0.75}},
    "groups": {"dispatched": 1, "trained": 1, "pending": 0, "dropped": {}},
    "seconds": {"total": 1.0},
}


def make_folder(settings: RunFile, client: Any) -> RunFolder:
    """The folder of a run whose database is the engine of the test session."""
    folder = settings.run.folder
    folder.path.mkdir(parents=True, exist_ok=True)
    folder.run_file.write_text(settings.model_dump_json())
    if not folder.clickhouse.is_symlink():
        folder.clickhouse.symlink_to(client.path)
    return folder


@pytest.fixture
def folder(example: RunFile, client: Any) -> RunFolder:
    return make_folder(example, client)


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)


def draw(shown: Any, width: int, height: int) -> list[str]:
    console = Console(width=width, height=height, force_terminal=True, color_system=None, record=True)
    with console.capture() as capture:
        console.print(shown)
    return capture.get().splitlines()


def test_top_prints_a_run_once_where_there_is_no_terminal(folder: RunFolder) -> None:
    result = run("top", folder.path)
    assert result.exit_code == 0
    assert "example  step 6/6" in result.stdout
    for name in ("digits_read", "digits_find", "dispatcher", "monitor", "waits for", "lag"):
        assert name in result.stdout
    assert any(bar in result.stdout for bar in "▁▂▃▄▅▆▇█")


def test_top_shows_what_each_part_waits_for_its_lag_and_what_it_takes(
    client: Client, settings: RunFile, bus: MemoryBus, recipe: Any, write: Callable[[], object]
) -> None:
    measures = {"lag_rollouts": 1200.0, "lag_rewards": 3.0, "cpu_seconds": 12.0, "memory_bytes": 1.5 * 2**30}
    bus.publish(topics.PARTS, recipe.part(Part.ASSEMBLER, waiting_for="rewards", measures=measures))
    write()
    text = "\n".join(draw(picture(read_snapshot(client, settings.run.id), {}, width=120, height=40), 120, 40))
    (line,) = [line for line in text.splitlines() if line.startswith("assembler")]
    assert line.split() == ["assembler", "rewards", "1,200", "rollouts", line.split()[4], "1.5", "GiB"]
    assert "learner     not started" in text


def test_top_fits_a_small_terminal(client: Client, example: RunFile) -> None:
    snapshot = read_snapshot(client, example.run.id)
    crowded = snapshot | {"sources": snapshot["sources"] * 20}
    for width, height in ((40, 12), (60, 20), (80, 24), (200, 60)):
        lines = draw(picture(crowded, {}, width=width, height=height), width, height)
        assert len(lines) <= height
        assert max(map(len, lines)) <= width
        assert any("more sources" in line for line in lines)
        assert any(line.startswith("dispatcher") for line in lines)
    whole = "\n".join(draw(picture(snapshot, {}, width=80, height=24), 80, 24))
    assert "more" not in whole
    assert all(source["name"] in whole for source in snapshot["sources"])


def test_cores_are_those_between_two_looks(example: RunFile) -> None:
    look = RunLook(example, example.run.folder)

    def look_at(cpu_seconds: float, told_seconds: float) -> dict[str, float]:
        part = {"instance": "host-1", "measures": {"cpu_seconds": cpu_seconds}, "told_seconds": told_seconds}
        return look.find_cores({"parts": [part]})

    assert look_at(10.0, 4.0) == {}
    assert look_at(13.0, 2.0)["host-1"] == pytest.approx(1.5, abs=0.05)
    assert look_at(13.0, 2.0) == {}
    assert look_at(15.0, 1.0)["host-1"] == pytest.approx(2.0, abs=0.1)


def test_top_of_a_folder_and_runs_list_every_run(example: RunFile, folder: RunFolder, client: Any) -> None:
    other = example.model_copy(update={"run": example.run.model_copy(update={"id": "other", "steps": 9})})
    make_folder(other, client).summary.write_text(json.dumps(SUMMARY))
    status = {"state": "ready", "waiting_for": "", "instance": "h-1", "address": "", "time": time.time()}
    folder.status.mkdir(exist_ok=True)
    (folder.status / "learner.json").write_text(json.dumps(status | {"measures": {"version": 4.0, "total_steps": 6.0}}))
    rows = {row["run"]: row for row in json.loads(run("runs", folder.path.parent, "--json").stdout)}
    assert (rows["example"]["state"], rows["example"]["step"], rows["example"]["total_steps"]) == ("running", 4, 6)
    assert (rows["other"]["state"], rows["other"]["before"], rows["other"]["now"]) == ("finished", 0.25, 0.75)
    for command in ("runs", "top"):
        shown = run(command, folder.path.parent).stdout
        assert "0.250 -> 0.750" in shown
        assert "4/6" in shown


def test_a_run_whose_parts_are_silent_is_stopped(folder: RunFolder) -> None:
    folder.status.mkdir(exist_ok=True)
    status = {"state": "ready", "waiting_for": "", "instance": "h-1", "address": "", "measures": {"version": 4.0}}
    (folder.status / "learner.json").write_text(json.dumps(status | {"time": time.time() - 3600}))
    (row,) = json.loads(run("runs", folder.path, "--json").stdout)
    assert (row["state"], row["now"]) == ("stopped", None)
    assert "60 min ago" in run("runs", folder.path).stdout


def test_compare_lays_held_out_rewards_and_differing_settings_side_by_side(example: RunFile, folder: RunFolder) -> None:
    learner = example.learner.model_copy(update={"learning_rate": 0.5})
    monitoring = example.monitoring.model_copy(update={"http_port": 1234})
    path = folder.path.parent / "changed.json"
    path.write_text(example.model_copy(update={"learner": learner, "monitoring": monitoring}).model_dump_json())
    found = json.loads(run("compare", folder.path, path, "--json").stdout)
    assert found["settings"] == {"learner.learning_rate": [example.learner.learning_rate, 0.5]}
    first, second = found["sides"]
    assert first["held_out"] == second["held_out"] != {}
    assert first["fingerprint"] != second["fingerprint"]
    shown = run("compare", folder.path, path).stdout
    for words in ("learner.learning_rate", "0.5", "digits_find", "reward of all judged rollouts", "+0.000"):
        assert words in shown
    assert "the settings are the same" in run("compare", folder.path, folder.path).stdout


def test_settings_are_compared_by_the_names_of_sources_and_never_with_secrets(example: RunFile) -> None:
    monitoring = example.monitoring.model_copy(update={"clickhouse_url": "http://me:secret@host:8123/x"})
    flat = flatten_settings(example.model_copy(update={"monitoring": monitoring}))
    assert flat["sources.digits_find.metric"] == example.sources[3].metric
    assert "secret" not in json.dumps(flat)
    swapped = example.model_copy(update={"sources": tuple(reversed(example.sources))})
    assert find_differences(flat, flatten_settings(swapped)) == {}


def test_the_steps_of_two_runs_are_shown_in_ranges_without_gaps() -> None:
    first, second = dict.fromkeys(range(1, 80), 0.0), dict.fromkeys(range(5, 100), 0.0)
    ranges = shared_ranges(first, second, 6)
    assert [step for steps in ranges for step in steps] == list(range(5, 80))
    assert {len(steps) for steps in ranges} == {12, 13}
    assert shared_ranges({1: 0.0, 3: 0.0}, {3: 0.0}) == [[3]]
    assert shared_ranges({1: 0.0}, {3: 0.0}) == []


def test_show_tells_all_of_a_rollout(folder: RunFolder, client: Client) -> None:
    number = client.query("SELECT min(number) FROM rollouts WHERE run = 'example' AND split = 'train'").result_rows[0][
        0
    ]
    found = json.loads(run("show", folder.path, f"{number}/1", "--json").stdout)
    assert (found["split"], found["number"], found["rollout_index"]) == ("train", number, 1)
    assert found["permalink"].endswith(f"#rollout=train/0/0/{number}/1")
    shown = run("show", folder.path, f"train/0/0/{number}/1").stdout
    for words in (
        "prompt:",
        "answer:",
        "truth:",
        "permalink:",
        "rewards of the group:",
        found["verdicts"][0]["verifier"],
    ):
        assert words in shown


def test_a_rollout_that_is_not_there_or_no_name_of_one_is_an_error_in_one_line(folder: RunFolder) -> None:
    with pytest.raises(UserError, match="there is no rollout 99999/0"):
        run("show", folder.path, "99999/0")
    with pytest.raises(UserError, match="'x' names no rollout"):
        run("show", folder.path, "x")


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("417/2", ("train", 0, 0, 417, 2)),
        ("eval/20/1/5/0", ("eval", 20, 1, 5, 0)),
        ("#rollout=train/0/0/7/3", ("train", 0, 0, 7, 3)),
        ("http://127.0.0.1:8080/#rollout=eval/0/0/7/0", ("eval", 0, 0, 7, 0)),
    ],
)
def test_a_rollout_is_named_as_on_the_page_or_shortly(text: str, key: tuple[str, int, int, int, int]) -> None:
    assert parse_key(text) == key


def test_report_writes_one_file_with_what_the_summary_would_say(folder: RunFolder, tmp_path: Path) -> None:
    path = tmp_path / "out.html"
    assert run("report", folder.path, "--out", path).stdout == f"wrote {path}\n"
    html = path.read_text()
    assert html.startswith("<!")
    assert "digits_find" in html
    run("report", folder.path)
    assert folder.report.read_text().startswith("<!")
    with pytest.raises(UserError, match="there is no folder"):
        run("report", folder.path, "--out", tmp_path / "nowhere" / "x.html")


@pytest.mark.parametrize("command", [("top",), ("show", "1/0"), ("report",)])
def test_a_folder_without_a_run_is_an_error_in_one_line(command: tuple[str, ...], tmp_path: Path) -> None:
    with pytest.raises(UserError) as error:
        run(command[0], tmp_path, *command[1:])
    assert str(tmp_path) in str(error.value)


def test_small_words_are_right() -> None:
    assert [sparkline([0.0, 0.5, None, 1.0], 10), sparkline([0.3, 0.3], 10), sparkline([], 10)] == ["▁▅ █", "▅▅", ""]
    assert sparkline([float(number) for number in range(100)], 8) == "▁▂▃▄▅▆▇█"
    assert [format_duration(seconds) for seconds in (5, 600, 12_000)] == ["5 s", "10 min", "3 h 20 min"]
    assert (format_change(0.5, 0.75), format_change(None, 0.5), format_change(None, None)) == (
        "0.500 -> 0.750",
        "0.500",
        "-",
    )
    assert (format_age(None), format_age(time.time() - 7200)) == ("-", "2 h ago")
    assert (describe_lag({}), describe_lag({"lag_a": 0.0}), describe_lag({"lag_a": 1.0, "lag_b": 2000.0})) == (
        "-",
        "0",
        "2,000 b",
    )
    now_ms = time.time() * 1000
    snapshot = {"total_steps": 100, "step": 40, "num_steps": 40, "step_seconds": 10.0, "last_ms": now_ms}
    assert describe_rest(snapshot) == "10 min left, 10.0 s a step"
    assert describe_rest(snapshot | {"last_ms": now_ms - 600_000}) == "newest step 10 min ago"
    assert describe_rest(snapshot | {"num_steps": 0}) == "no step yet"

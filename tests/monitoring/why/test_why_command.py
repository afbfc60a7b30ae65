"""The command, on the folder of a run: a bar a cause, pairs, commands, JSON, and refusals in one line."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from why_runs import SIDE, STEP

SUPPORT = Path(__file__).parents[2] / "support"
MAKE_RUN = """
import sys, threading
from pathlib import Path
folder, support = Path(sys.argv[1]), sys.argv[2]
sys.path.insert(0, support)
from why_runs import SCENARIOS, SOURCES, ConstructedRun
from tristream.config.run_file import RunFile
from tristream.monitoring.store.clickhouse import open_client
from tristream.monitoring.store.sink import Sink
from tristream.runtime.bus.memory import MemoryBus

settings = RunFile.model_validate({
    "run": {"id": "asked", "steps": 400, "output": folder}, "model": {"path": folder / "model"},
    "sources": [{"name": name, "train": folder / f"{name}.parquet"} for name in SOURCES],
    "rollout": {"groups_per_step": 12, "group_size": 6, "max_staleness": 8},
})
settings.run.folder.path.mkdir(parents=True)
settings.run.folder.run_file.write_text(settings.model_dump_json())
bus, stop = MemoryBus("asked"), threading.Event()
ConstructedRun(bus, 1, SCENARIOS["threshold 0.95 -> 0.99"]).publish()
stop.set()
client = open_client(settings.monitoring, settings.run.folder)
sink = Sink(bus, client, flush_seconds=0.1, stop=stop)
sink.run()
sink.close()
client.close()
"""


def run_why(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tristream.cli", "why", str(folder), *arguments]
    return subprocess.run(command, check=False, capture_output=True, text=True, timeout=120)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run whose IoU threshold moves."""
    output = tmp_path_factory.mktemp("runs")
    subprocess.run([sys.executable, "-c", MAKE_RUN, str(output), str(SUPPORT)], check=True, timeout=240)
    return output / "asked"


def test_it_prints_the_verdict_a_bar_a_cause_pairs_and_commands(folder: Path) -> None:
    done = run_why(folder, str(STEP), "--steps", str(SIDE))
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert "threshold moved in find" in lines[0]
    first = next(line for line in lines if line.strip().startswith("*"))
    assert "threshold moved" in first
    assert "█|" in first
    assert "detection 0.95 -> 0.99" in done.stdout
    assert sum("boxes" in line for line in lines) >= 4
    assert f"  tristream why {folder} {STEP} --source find" in lines


def test_its_json_is_of_the_source_that_is_asked_for(folder: Path) -> None:
    done = run_why(folder, str(STEP), "--steps", str(SIDE), "--source", "find", "--json")
    found = json.loads(done.stdout)
    assert (found["source"], found["causes"][0]["kind"]) == ("find", "threshold")
    assert not [cause for cause in found["causes"] if cause["kind"] == "mix"]
    assert {pair[side]["source"] for pair in found["pairs"] for side in ("before", "after")} == {"find"}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [((str(STEP), "--source", "nowhere"), "no source 'nowhere'"), (("399",), "no step 399"), (("1",), "before step 1")],
)
def test_what_is_not_there_is_refused_in_one_line(folder: Path, arguments: tuple[str, ...], words: str) -> None:
    done = run_why(folder, *arguments)
    assert done.returncode == 2
    assert words in done.stderr
    assert done.stderr.count("\n") == 1

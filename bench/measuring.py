"""What the benchmarks share: settings, the machine, CPU time, statistics, tables and result files.

Times are wall-clock seconds unless a name says CPU. A benchmark compares its sides in one go, in turns, so that
a slow minute of the machine slows all of them.
"""

import json
import multiprocessing
import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from rich.console import Console
from rich.table import Table

from tristream.config.load import load_run_file
from tristream.config.run_file import RunFile

ROOT = Path(__file__).parents[1]
DEMO = ROOT / "examples/digits/run.toml"
RESULTS = Path(__file__).parent / "results"
PACKAGES = ("torch", "transformers", "deepspeed", "kafka-python", "faust-streaming")
CLOCK_TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")

P = ParamSpec("P")
ResultT = TypeVar("ResultT")


@dataclass(frozen=True, slots=True, kw_only=True)
class Goal:
    """A limit, what was measured, and so how far it is from the limit."""

    name: str
    measured_percent: float
    limit_percent: float
    is_upper_limit: bool

    @property
    def is_met(self) -> bool:
        """Whether the measured number is on the right side."""
        return self.margin_points >= 0

    @property
    def margin_points(self) -> float:
        """Percentage points on the right side of the limit; negative beyond it."""
        difference = self.limit_percent - self.measured_percent
        return difference if self.is_upper_limit else -difference

    def __str__(self) -> str:
        """One line for people."""
        side = "at most" if self.is_upper_limit else "at least"
        place = f"{abs(self.margin_points):.1f} points {'inside' if self.is_met else 'beyond'} the limit"
        verdict = "met" if self.is_met else "MISSED"
        return f"goal: {self.name} {side} {self.limit_percent:g} %: {self.measured_percent:.1f} %, {verdict}, {place}"


def load_demo(path: Path, output: Path, overrides: Sequence[str] = ()) -> RunFile:
    """The run file with its results below ``output``; the environment is left aside, so that runs compare."""
    return load_run_file(path, [f"run.output={output}", *overrides], environment={})


def say(text: str) -> None:
    """Print a line of progress."""
    print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)


def in_own_process(function: Callable[P, ResultT], *args: P.args, **kwargs: P.kwargs) -> ResultT:
    """Call a function in a fresh process, so that no earlier measurement is in its memory or its threads."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *args, **kwargs).result()


def percentile(values: Sequence[float], percent: float) -> float:
    """The value below which ``percent`` of the values lie, interpolated."""
    ordered = sorted(values)
    place = (len(ordered) - 1) * percent / 100
    below = int(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (place - below)


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median, mean, and the range that holds the middle 80 % of the values."""
    return {
        "median": statistics.median(values),
        "mean": statistics.fmean(values),
        "p10": percentile(values, 10),
        "p90": percentile(values, 90),
    }


def busy_cpu_seconds() -> float:
    """CPU seconds that all processes of the machine have used since it started."""
    words = Path("/proc/stat").read_text(encoding="ascii").splitlines()[0].split()
    user, nice, system, _idle, _waiting, irq, softirq = (int(word) for word in words[1:8])
    return (user + nice + system + irq + softirq) / CLOCK_TICKS_PER_SECOND


def num_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0))


def make_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    """A table whose columns after the first are numbers."""
    table = Table(title=title)
    for number, column in enumerate(columns):
        table.add_column(column, justify="right" if number else "left")
    for row in rows:
        table.add_row(*row)
    return table


def show(*tables: Table) -> None:
    """Print tables, at a width that keeps them whole where the output is no terminal."""
    console = Console() if Console().is_terminal else Console(width=140)
    for table in tables:
        console.print(table)


def describe_machine() -> dict[str, Any]:
    """What a number depends on besides the code."""
    return {
        "cores": num_cores(),
        "processor": platform.processor() or platform.machine(),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "packages": {name: version(name) for name in PACKAGES},
        "load_average_1_minute": os.getloadavg()[0],
    }


def write_results(name: str, results: dict[str, Any]) -> Path:
    """Write ``bench/results/NAME.json`` atomically."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    path = RESULTS / f"{name}.json"
    temporary = path.with_suffix(".tmp")
    created = time.strftime("%Y-%m-%dT%H:%M:%S%z")
    facts = {"benchmark": name, "created": created, "machine": describe_machine()}
    temporary.write_text(json.dumps(facts | results, indent=2), encoding="utf-8")
    temporary.replace(path)
    return path

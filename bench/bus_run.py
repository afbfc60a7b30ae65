"""A run with all parts on the bus, as ``tristream up`` does it, and what it took.

Nothing is measured from inside the parts: times of events come from ClickHouse after the run, CPU times of
processes from /proc while it runs. Measured are whole steps between a warm-up, which holds the evaluation of
version 0, and a tail, in which no new prompts are dispatched.
"""

import json
import signal
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import fmean
from typing import Any

from bench.measuring import CLOCK_TICKS_PER_SECOND, busy_cpu_seconds, in_own_process, load_demo

from tristream.config.run_file import RunFile
from tristream.runtime.run_folder import RunFolder
from tristream.wire.events import Part

NUM_TAIL_STEPS = 2
POLL_SECONDS = 0.25


class BusRunError(Exception):
    """The run did not end as it should."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CpuSample:
    """CPU seconds used so far, when the learner was at a version."""

    version: int
    by_process: dict[str, float]
    machine: float


@dataclass(frozen=True, slots=True, kw_only=True)
class BusTimes:
    """What a run on the bus took, over its measured steps."""

    step_seconds: list[float]
    phase_seconds: dict[str, float]
    """Mean seconds a step, by phase of the learner."""
    num_rollouts: int
    num_completion_tokens: int
    """Tokens of all rollouts, those of dropped groups included."""
    scored_after_seconds: list[float]
    """Of each training rollout, from its publication to the publication of its last reward."""
    cpu_seconds_per_step: dict[str, float]
    """By part, with its child processes; ``broker`` and ``up`` are processes too."""
    other_cpu_seconds_per_step: float
    """CPU seconds that the rest of the machine used meanwhile."""


def measure_bus(
    run_file: Path, output: Path, *, num_warmup: int, num_measured: int, overrides: Sequence[str]
) -> BusTimes:
    """Run to the end in processes of their own.

    Raises:
        BusRunError: the run ended early; holds what it printed.
    """
    num_steps = num_warmup + num_measured + NUM_TAIL_STEPS
    keys = [f"run.steps={num_steps}", "evaluation.every=1000000", *overrides]
    settings = load_demo(run_file, output, keys)
    command = [sys.executable, "-m", "tristream.cli", "up", str(run_file)]
    for key in (f"run.output={output}", *keys):
        command += ["--set", key]
    samples = _run(command, output / "up.log", settings)
    events = in_own_process(_read_events, settings, num_warmup, num_warmup + num_measured)
    cpu, other = _cpu_per_step(
        [sample for sample in samples if num_warmup <= sample.version <= num_warmup + num_measured]
    )
    return BusTimes(
        step_seconds=events.step_seconds,
        phase_seconds=events.phase_seconds,
        num_rollouts=events.num_rollouts,
        num_completion_tokens=events.num_completion_tokens,
        scored_after_seconds=events.scored_after_seconds,
        cpu_seconds_per_step=cpu,
        other_cpu_seconds_per_step=other,
    )


def _run(command: Sequence[str], log_path: Path, settings: RunFile) -> list[CpuSample]:
    """Run ``tristream up``; returns CPU times, one sample each time the learner's version was seen to change."""
    samples: list[CpuSample] = []
    with log_path.open("wb") as log, subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT) as process:
        try:
            while process.poll() is None:
                learner = _read_status(settings.run.folder, Part.LEARNER)
                version = int(learner.get("measures", {}).get("version", 0))
                if not samples or version > samples[-1].version:
                    samples.append(_sample_cpu(version, process.pid, settings.run.folder))
                time.sleep(POLL_SECONDS)
        except BaseException:
            process.send_signal(signal.SIGTERM)
            raise
    if process.returncode != 0:
        words = log_path.read_text(encoding="utf-8", errors="replace")[-2000:]
        raise BusRunError(f"tristream up ended with {process.returncode}:\n{words}")
    return samples


def _sample_cpu(version: int, up_pid: int, folder: RunFolder) -> CpuSample:
    """CPU seconds of every process of the run; each part leads a session, and so does the broker."""
    names = {int(_read_status(folder, part).get("pid", 0)): str(part) for part in Part}
    by_process: dict[str, float] = defaultdict(float)
    processes = _read_processes()
    for pid, (_, session, seconds) in processes.items():
        leader = processes.get(session)
        if pid == up_pid:
            by_process["up"] += seconds
        elif leader is not None and leader[0] == up_pid:
            by_process[names.get(session, "broker")] += seconds
    return CpuSample(version=version, by_process=dict(by_process), machine=busy_cpu_seconds())


def _read_status(folder: RunFolder, part: Part) -> dict[str, Any]:
    """The status file of a part, which is replaced as a whole; empty if the part has not reported."""
    try:
        status: dict[str, Any] = json.loads((folder.status / f"{part}.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    return status


def _read_processes() -> dict[int, tuple[int, int, float]]:
    """Parent, session and CPU seconds of every process; those of children that ended count with their parent."""
    processes: dict[int, tuple[int, int, float]] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            text = (folder / "stat").read_text(encoding="utf-8", errors="replace")
        except OSError:
            continue  # it ended meanwhile
        fields = text.rpartition(")")[2].split()
        ticks = sum(int(field) for field in fields[11:15])
        processes[int(folder.name)] = (int(fields[1]), int(fields[3]), ticks / CLOCK_TICKS_PER_SECOND)
    return processes


def _cpu_per_step(samples: Sequence[CpuSample]) -> tuple[dict[str, float], float]:
    if len(samples) < 2:
        raise BusRunError("the run was too short to see its CPU times; measure more steps")
    first, last = samples[0], samples[-1]
    num_steps = last.version - first.version
    used = {name: (last.by_process[name] - first.by_process.get(name, 0.0)) / num_steps for name in last.by_process}
    return used, (last.machine - first.machine) / num_steps - sum(used.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class _Events:
    step_seconds: list[float]
    phase_seconds: dict[str, float]
    num_rollouts: int
    num_completion_tokens: int
    scored_after_seconds: list[float]


def _read_events(settings: RunFile, first_step: int, last_step: int) -> _Events:
    """Read the finished run's database; its engine allows one folder a process."""
    from tristream.monitoring.store.clickhouse import open_client

    client = open_client(settings.monitoring, settings.run.folder)
    try:
        steps = client.query(
            "SELECT toUnixTimestamp64Nano(created), phase_seconds FROM steps FINAL "
            "WHERE step BETWEEN {first:Int64} AND {last:Int64} ORDER BY step",
            {"first": first_step, "last": last_step},
        ).result_rows
        window = {"start": int(steps[0][0]), "end": int(steps[-1][0])}
        scored = client.query(
            "SELECT any(o.num_completion_tokens), (max(toUnixTimestamp64Nano(r.created)) - "
            "any(toUnixTimestamp64Nano(o.created))) / 1e9 "
            "FROM (SELECT * FROM rollouts FINAL WHERE split = 'train') AS o "
            "JOIN (SELECT * FROM rewards FINAL WHERE split = 'train') AS r "
            "ON o.number = r.number AND o.rollout_index = r.rollout_index "
            "WHERE toUnixTimestamp64Nano(o.created) BETWEEN {start:Int64} AND {end:Int64} "
            "GROUP BY o.number, o.rollout_index",
            window,
        ).result_rows
    finally:
        client.close()
    ends = [int(row[0]) / 1e9 for row in steps]
    phases = [row[1] for row in steps[1:]]
    return _Events(
        step_seconds=[end - start for start, end in pairwise(ends)],
        phase_seconds={name: fmean(of.get(name, 0.0) for of in phases) for name in {n for of in phases for n in of}},
        num_rollouts=len(scored),
        num_completion_tokens=sum(int(row[0]) for row in scored),
        scored_after_seconds=[float(row[1]) for row in scored],
    )

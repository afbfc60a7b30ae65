"""``tristream runs``: the runs below a folder, or in a database, one row each."""

import json
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table

from tristream.config.load import load_run_file
from tristream.config.monitoring import MonitoringSection
from tristream.config.run_file import RunFile
from tristream.local.status_files import read_status_files
from tristream.monitoring.queries.select import Rows
from tristream.monitoring.queries.snapshot import held_out_mean, read_run_names, read_snapshot
from tristream.monitoring.store.clickhouse import Role, open_client
from tristream.monitoring.store.reading import FRESH_SECONDS, PATIENCE_SECONDS, find_endpoint, open_reader
from tristream.runtime.errors import TryAgainError, UserError
from tristream.runtime.run_folder import RunFolder
from tristream.wire.events import Part, PartState

FINISHED, RUNNING, STOPPED = "finished", "running", "stopped"
SPEAKING = frozenset({PartState.STARTING.value, PartState.READY.value})


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRow:
    """One run."""

    run: str
    state: str
    """``finished``, ``running`` or ``stopped``."""
    step: int
    total_steps: int
    before: float | None = None
    """Held-out mean over the sources before training; None if a source has no complete round."""
    now: float | None = None
    """The newest one."""
    started_seconds: float | None = None
    """When it was started last, seconds since the epoch; None if unknown."""
    told_seconds: float | None = None
    """When it spoke last."""
    where: str = ""
    """Its folder."""

    def to_json(self) -> dict[str, Any]:
        """As a JSON value."""
        return asdict(self)


def find_run_folders(folder: Path) -> list[RunFolder]:
    """The folders of runs below a folder, the newest last; the folder itself if it is one of a run.

    Raises:
        UserError: there is no such folder, or no run in it.
    """
    if RunFolder(folder).run_file.is_file():
        return [RunFolder(folder)]
    found = [RunFolder(path.parent) for path in folder.glob("*/run.json")] if folder.is_dir() else []
    if not found:
        what = "there is no run in it" if folder.is_dir() else "no such folder"
        raise UserError(what, where=str(folder), remedy="give a folder of runs, such as runs, or start one")
    return sorted(found, key=lambda run: run.run_file.stat().st_mtime)


def list_folder(folder: Path) -> list[RunRow]:
    """The runs below a folder, from the files in their folders and, while they work, from their databases.

    Raises:
        UserError: there is no run.
    """
    return [describe_folder(run) for run in find_run_folders(folder)]


def describe_folder(folder: RunFolder) -> RunRow:
    """A run by its folder."""
    settings = load_run_file(folder.run_file, environment={})
    statuses = read_status_files(folder.status, settings.run.id)
    told = max((status.created_ns / 1e9 for status in statuses), default=None)
    learner = next((status.measures for status in statuses if status.part is Part.LEARNER), {})
    summary = _read_summary(folder)
    is_fresh = told is not None and time.time() - told < FRESH_SECONDS
    speaks = any(status.state.value in SPEAKING for status in statuses)
    state = FINISHED if summary else RUNNING if is_fresh and speaks else STOPPED
    sources = list(summary["sources"].values()) if summary else []
    before, now = (_mean([facts[key] for facts in sources]) for key in ("eval_before", "eval_after"))
    if state == RUNNING:
        before, now = _ask_held_out(settings, folder)
    return RunRow(
        run=settings.run.id,
        state=state,
        step=int(summary["steps"] if summary else learner.get("version", 0)),
        total_steps=settings.run.steps,
        before=before,
        now=now,
        started_seconds=folder.run_file.stat().st_mtime,
        told_seconds=told,
        where=str(folder.path),
    )


def list_server(url: str) -> list[RunRow]:
    """The runs of a ClickHouse server.

    Raises:
        UserError: it does not answer, or the address is none.
    """
    monitoring = MonitoringSection(clickhouse_url=url)
    nowhere = RunFolder(Path("runs"))
    with closing(open_client(monitoring, nowhere, role=Role.READS, timeout_seconds=PATIENCE_SECONDS)) as client:
        return [describe_snapshot(read_snapshot(client, run)) for run in read_run_names(client)]


def describe_snapshot(snapshot: dict[str, Any]) -> RunRow:
    """A run by what its database says."""
    states = {part["part"]: part["state"] for part in snapshot["parts"]}
    is_finished = snapshot["total_steps"] > 0 and snapshot["step"] >= snapshot["total_steps"]
    is_speaking = any(state in SPEAKING for state in states.values())
    return RunRow(
        run=snapshot["run"],
        state=RUNNING if is_speaking else FINISHED if is_finished else STOPPED,
        step=snapshot["step"],
        total_steps=snapshot["total_steps"],
        before=held_out_mean(snapshot["sources"], "before"),
        now=held_out_mean(snapshot["sources"], "now"),
        started_seconds=snapshot["started_ms"] / 1000 or None,
        told_seconds=snapshot["told_ms"] / 1000 or None,
    )


def run_table(rows: Sequence[RunRow], *, is_wide: bool = True) -> Table:
    """The runs for people."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for title in ("run", "state", "steps", "held-out", *(("started",) if is_wide else ()), "last word"):
        table.add_column(title, justify="right" if title in ("steps", "held-out") else "left", no_wrap=True)
    for row in rows:
        started = (format_time(row.started_seconds),) if is_wide else ()
        table.add_row(
            row.run, row.state, f"{row.step}/{row.total_steps or '?'}", format_change(row.before, row.now), *started,
            format_age(row.told_seconds),
        )  # fmt: skip
    return table


def format_change(before: float | None, now: float | None) -> str:
    """A value before and now, such as ``0.412 -> 0.688``."""
    shown = ["-" if value is None else f"{value:.3f}" for value in (before, now)]
    return shown[1] if before is None or before == now else " -> ".join(shown)


def format_time(seconds: float | None) -> str:
    """A time of this machine's clock."""
    return "-" if seconds is None else time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds))


def format_age(seconds: float | None) -> str:
    """How long ago a time was, in words."""
    if seconds is None:
        return "-"
    age = max(0.0, time.time() - seconds)
    for limit, unit, name in ((90, 1, "s"), (90 * 60, 60, "min"), (36 * 3600, 3600, "h")):
        if age < limit:
            return f"{age / unit:.0f} {name} ago"
    return f"{age / 86400:.0f} d ago"


def _ask_held_out(settings: RunFile, folder: RunFolder) -> tuple[float | None, float | None]:
    """What the database of a run at work says; nothing if it does not answer."""
    if not settings.monitoring.clickhouse_url and find_endpoint(folder) is None:
        return None, None
    try:
        with open_reader(settings.monitoring, folder) as client:
            sources: Rows = read_snapshot(client, settings.run.id)["sources"]
    except (UserError, TryAgainError):
        return None, None
    return held_out_mean(sources, "before"), held_out_mean(sources, "now")


def _read_summary(folder: RunFolder) -> dict[str, Any] | None:
    try:
        summary: dict[str, Any] = json.loads(folder.summary.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return summary


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known and len(known) == len(values) else None

"""What ``tristream top`` shows: a run in as many lines and columns as the terminal has."""

import time
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from tristream.cli.run_listing import format_age, format_change
from tristream.wire.events.parts import LAG

BARS = "▁▂▃▄▅▆▇█"
NARROW_COLUMNS = 80
"""A narrower terminal shows less."""
HEAD_LINES = 4
"""Lines of head and titles."""
MIN_ROWS = 4
"""Sources and processes that are shown however few lines there are."""
GIB = 2**30

Cores = Mapping[str, float]
"""Cores that each process uses, by its name."""


def picture(snapshot: dict[str, Any], cores: Cores, *, width: int, height: int) -> RenderableType:
    """A run at a glance.

    Args:
        snapshot: where it stands (``read_snapshot``).
        cores: what its processes use.
        width: columns of the terminal.
        height: lines of the terminal.
    """
    sources, parts = snapshot["sources"], snapshot["parts"]
    room = max(MIN_ROWS, height - HEAD_LINES - 2)
    num_parts = min(len(parts), max(room // 2, room - len(sources)))
    num_sources = room - num_parts
    return Group(
        _head(snapshot, width),
        _source_table(sources[:num_sources], width),
        *_left_out(len(sources) - num_sources, "sources"),
        _part_table(parts[:num_parts], cores, width),
        *_left_out(len(parts) - num_parts, "processes"),
    )


def sparkline(values: Sequence[float | None], width: int) -> str:
    """The newest values as bars, the lowest and the highest of them as the ends of the scale.

    Example:
        >>> sparkline([0.0, 0.5, None, 1.0], 10)
        '▁▅ █'
    """
    shown = values[-width:] if width > 0 else []
    known = [value for value in shown if value is not None]
    if not known:
        return ""
    low, span = min(known), max(known) - min(known)
    steps = [None if value is None else (value - low) / span if span else 0.5 for value in shown]
    return "".join(" " if step is None else BARS[min(len(BARS) - 1, int(step * len(BARS)))] for step in steps)


def describe_rest(snapshot: dict[str, Any]) -> str:
    """How long the rest takes at the pace of the newest steps, or when the newest step was."""
    left = snapshot["total_steps"] - snapshot["step"]
    if snapshot["num_steps"] == 0:
        return "no step yet"
    if left <= 0:
        return f"done {format_age(snapshot['last_ms'] / 1000)}"
    seconds = snapshot["step_seconds"]
    rest = f"{format_duration(left * seconds)} left, {seconds:.1f} s a step" if seconds else ""
    age = time.time() - snapshot["last_ms"] / 1000
    is_late = age > 60 and age > 5 * seconds
    return f"newest step {format_age(snapshot['last_ms'] / 1000)}" if is_late or not rest else rest


def format_duration(seconds: float) -> str:
    """A time span, such as ``3 h 20 min``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"


def describe_lag(measures: Mapping[str, float]) -> str:
    """Records not read yet: of the topic with the most of them; ``0`` if all are read."""
    lags = {name.removeprefix(LAG): number for name, number in measures.items() if name.startswith(LAG)}
    if not lags:
        return "-"
    topic, number = max(lags.items(), key=lambda item: item[1])
    return f"{number:,.0f} {topic}" if number else "0"


def _head(snapshot: dict[str, Any], width: int) -> RenderableType:
    grid = Table.grid(padding=(0, 1))
    total = max(snapshot["total_steps"], 1)
    bar = ProgressBar(total=total, completed=min(snapshot["step"], total), width=max(8, min(40, width // 4)))
    words = f"{snapshot['run']}  step {snapshot['step']}/{snapshot['total_steps'] or '?'}"
    grid.add_row(Text(words, style="bold", no_wrap=True), bar, Text(describe_rest(snapshot), no_wrap=True))
    return grid


def _source_table(sources: Sequence[dict[str, Any]], width: int) -> Table:
    is_wide = width >= NARROW_COLUMNS
    table = Table(box=None, pad_edge=False)
    table.add_column("source", no_wrap=True, overflow="ellipsis")
    table.add_column("held-out", justify="right", no_wrap=True)
    table.add_column("reward", justify="right", no_wrap=True)
    table.add_column("of judged, by step" if is_wide else "", no_wrap=True, overflow="crop")
    for source in sources:
        before, now = (source[key]["value"] if source[key] else None for key in ("before", "now"))
        known = [value for value in source["rewards"] if value is not None]
        table.add_row(
            source["name"],
            format_change(before, now) if is_wide else format_change(None, now),
            f"{known[-1]:.2f}" if known else "-",
            Text(sparkline(source["rewards"], min(40, max(0, width - 45))), style="cyan"),
        )
    return table


def _part_table(parts: Sequence[dict[str, Any]], cores: Cores, width: int) -> Table:
    is_wide = width >= NARROW_COLUMNS
    table = Table(box=None, pad_edge=False)
    table.add_column("part", no_wrap=True, min_width=10)
    table.add_column("waits for", no_wrap=True, overflow="ellipsis", ratio=1)
    for title in ("lag", "cores", "memory") if is_wide else ("cores",):
        table.add_column(title, justify="right", no_wrap=True)
    for part in parts:
        measures = part["measures"]
        used = cores.get(part["instance"], part.get("num_cores"))
        numbers = {
            "lag": describe_lag(measures),
            "cores": "-" if used is None else f"{used:.1f}",
            "memory": f"{measures['memory_bytes'] / GIB:.1f} GiB" if "memory_bytes" in measures else "-",
        }
        shown = [numbers[str(column.header)] for column in table.columns[2:]]
        table.add_row(Text(part["part"], style=_style(part["state"])), _describe_state(part), *shown)
    return table


def _describe_state(part: dict[str, Any]) -> str:
    words = "" if part["state"] == "ready" else part["state"]
    return ": ".join(word for word in (words, part["waiting_for"]) if word) or "(works)"


def _style(state: str) -> str:
    return {"ready": "green", "starting": "yellow", "done": "dim"}.get(state, "red")


def _left_out(number: int, what: str) -> list[Text]:
    return [Text(f"... and {number} more {what}", style="dim")] if number > 0 else []

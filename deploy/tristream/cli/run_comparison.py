"""``tristream compare``: two runs side by side."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from pathlib import Path
from statistics import fmean
from typing import Any

from rich import box
from rich.table import Table

from tristream.cli.exporting import find_run
from tristream.cli.run_listing import format_change
from tristream.cli.tables import open_console
from tristream.config.run_file import RunFile
from tristream.config.secrets import without_secrets
from tristream.monitoring.queries.curves import read_curves
from tristream.monitoring.queries.snapshot import read_snapshot
from tristream.monitoring.store.reading import open_reader

NUM_RANGES = 8
"""Ranges of steps of which mean rewards are shown: those of single steps are noise."""
ADDRESSES = ("run.id", "run.output", "bus.bootstrap_servers", "bus.durable", "bus.prefix", "assembly.address",
    "monitoring", "metrics", "store.uri")  # fmt: skip
"""Keys, or sections, that say where a run is and not what it is."""
MAX_VALUE = 60
"""Characters of a value that are shown."""

Rewards = Mapping[str, Mapping[int, float]]
"""By source and step."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSide:
    """One of the two runs."""

    label: str
    """Its id, and its place where both have the same."""
    run: str
    step: int
    total_steps: int
    fingerprint: str
    """Checksum of the settings, without those that are only addresses."""
    held_out: Mapping[str, tuple[float | None, float | None]]
    """Value before and now, by source."""
    rewards: Rewards


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """What is found of two runs."""

    sides: tuple[RunSide, RunSide]
    settings: Mapping[str, tuple[Any, Any]]
    """Keys of the run file whose values differ, with both values; None where a run has no such key."""

    def to_json(self) -> dict[str, Any]:
        """As a JSON value."""
        return asdict(self)


def compare_runs(first: Path, second: Path) -> Comparison:
    """Read two runs, one after the other.

    Raises:
        UserError: one of them is no run, or has no database.
        TryAgainError: a monitor does not answer.
    """
    sides, settings = [], []
    for place in (first, second):
        run_file, folder = find_run(place, ())
        flat = flatten_settings(run_file)
        with open_reader(run_file.monitoring, folder) as client:
            snapshot = read_snapshot(client, run_file.run.id)
            curves = read_curves(client, run_file.run.id, parts=("main",))
        settings.append(flat)
        sides.append(_make_side(snapshot, curves["sources"]["judged_reward"], flat))
    if sides[0].run == sides[1].run:
        sides = [replace(side, label=str(place)) for side, place in zip(sides, (first, second), strict=True)]
    return Comparison(sides=(sides[0], sides[1]), settings=find_differences(settings[0], settings[1]))


def flatten_settings(run_file: RunFile) -> dict[str, Any]:
    """Values of a run file by their keys, without secrets and addresses; sources and modules by name, not by place."""
    tree = without_secrets(run_file).model_dump(mode="json")
    return {
        key: value
        for key, value in _flatten(tree, "")
        if not any(key == address or key.startswith(f"{address}.") for address in ADDRESSES)
    }


def find_differences(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """The keys whose values differ, in the order of the run file."""
    keys = dict.fromkeys([*first, *second])
    return {key: (first.get(key), second.get(key)) for key in keys if first.get(key) != second.get(key)}


def shared_ranges(first: Mapping[int, float], second: Mapping[int, float], number: int = NUM_RANGES) -> list[list[int]]:
    """The steps that both have, in at most so many ranges of about as many steps."""
    steps = sorted(set(first) & set(second))
    ends = [round(index * len(steps) / number) for index in range(number + 1)]
    return [steps[start:end] for start, end in pairwise(ends) if end > start]


def print_comparison(found: Comparison) -> None:
    """Print it."""
    console, (first, second) = open_console(), found.sides
    console.print(_held_out_table(first, second))
    for source in first.rewards:
        ranges = shared_ranges(first.rewards[source], second.rewards.get(source, {}))
        if ranges:
            console.print(_reward_table(source, ranges, first, second))
    if not found.settings:
        console.print(f"the settings are the same ({first.fingerprint})")
        return
    table = Table(title=f"settings that differ ({first.fingerprint}, {second.fingerprint})", box=box.SIMPLE_HEAD)
    for title in ("key", first.label, second.label):
        table.add_column(title)
    for key, values in found.settings.items():
        table.add_row(key, *map(_show_value, values))
    console.print(table)


def _held_out_table(first: RunSide, second: RunSide) -> Table:
    table = Table(title="held-out evaluation", box=box.SIMPLE_HEAD)
    table.add_column("source")
    for side in (first, second):
        table.add_column(f"{side.label}\nstep {side.step}/{side.total_steps or '?'}", justify="right")
    table.add_column("difference", justify="right")
    for source in dict.fromkeys([*first.held_out, *second.held_out]):
        pairs = [side.held_out.get(source, (None, None)) for side in (first, second)]
        nows = [pair[1] for pair in pairs]
        difference = "-" if nows[0] is None or nows[1] is None else f"{nows[1] - nows[0]:+.3f}"
        table.add_row(source, *(format_change(*pair) for pair in pairs), difference)
    return table


def _reward_table(source: str, ranges: Sequence[Sequence[int]], first: RunSide, second: RunSide) -> Table:
    table = Table(title=f"{source}: reward of all judged rollouts, means over steps", box=box.SIMPLE_HEAD)
    table.add_column("")
    for steps in ranges:
        table.add_column(str(steps[0]) if len(steps) == 1 else f"{steps[0]}-{steps[-1]}", justify="right")
    for side in (first, second):
        table.add_row(side.label, *(f"{fmean(map(side.rewards[source].__getitem__, steps)):.2f}" for steps in ranges))
    return table


def _make_side(snapshot: dict[str, Any], curves: Mapping[str, Any], settings: Mapping[str, Any]) -> RunSide:
    text = json.dumps(settings, sort_keys=True)
    return RunSide(
        label=snapshot["run"],
        run=snapshot["run"],
        step=snapshot["step"],
        total_steps=snapshot["total_steps"],
        fingerprint=hashlib.sha256(text.encode()).hexdigest()[:12],
        held_out={
            source["name"]: (
                source["before"]["value"] if source["before"] else None,
                source["now"]["value"] if source["now"] else None,
            )
            for source in snapshot["sources"]
        },
        rewards={
            source: {int(x): y for x, y in zip(curve["x"], curve["y"], strict=True) if y is not None}
            for source, curve in curves.items()
        },
    )


def _flatten(node: Any, key: str) -> list[tuple[str, Any]]:  # noqa: ANN401 - a JSON value
    if isinstance(node, dict) and node:
        return [pair for name, child in node.items() for pair in _flatten(child, f"{key}.{name}" if key else name)]
    if isinstance(node, list) and node and all(isinstance(child, dict) for child in node):
        named = [(child.get("name") or child.get("prefix") or str(place), child) for place, child in enumerate(node)]
        return [pair for name, child in named for pair in _flatten(child, f"{key}.{name}")]
    return [(key, node)]


def _show_value(value: Any) -> str:  # noqa: ANN401 - a JSON value
    text = "(not given)" if value is None else value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= MAX_VALUE else f"{text[: MAX_VALUE - 3]}..."

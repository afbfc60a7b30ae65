"""``tristream top``: looks at a run, or at all runs below a folder, again and again."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from rich.console import Console, RenderableType
from rich.live import Live
from rich.text import Text

from tristream.cli.exporting import find_run
from tristream.cli.run_listing import list_folder, run_table
from tristream.cli.tables import open_console
from tristream.cli.top_picture import NARROW_COLUMNS, picture
from tristream.config.run_file import RunFile
from tristream.monitoring.queries.snapshot import read_snapshot
from tristream.monitoring.store.reading import find_endpoint, open_reader
from tristream.runtime.errors import TryAgainError, UserError
from tristream.runtime.run_folder import RunFolder

PLAIN_LINES = 200
"""Lines where there is no terminal."""


class Look(Protocol):
    """Looks once."""

    @property
    def changes(self) -> bool:
        """Whether another look may show something else."""
        ...

    def __call__(self, console: Console) -> RenderableType:
        """What is to be seen."""
        ...


def watch(place: Path, overrides: Sequence[str], *, every_seconds: float, is_once: bool) -> None:
    """Show a run, or the runs below a folder, until interrupted; without a terminal once.

    Raises:
        UserError: there is no run, or it has no database.
        TryAgainError: its monitor does not answer at the first look.
    """
    console = open_console()
    look = _make_look(place, overrides)
    shown = look(console)
    if is_once or not console.is_terminal or console.is_dumb_terminal or not look.changes:
        console.print(shown)
        return
    try:
        with Live(shown, console=console, screen=True, auto_refresh=False, vertical_overflow="crop") as live:
            while True:
                live.update(shown, refresh=True)
                time.sleep(every_seconds)
                shown = _look_again(look, console, shown)
    except KeyboardInterrupt:
        console.print(shown)


def _look_again(look: Look, console: Console, before: RenderableType) -> RenderableType:
    """A new picture; one line if there is none, such as while the monitor is started again."""
    try:
        return look(console)
    except (UserError, TryAgainError) as error:
        return Text(f"{error}; looking again", style="red") if not isinstance(before, Text) else before


def _make_look(place: Path, overrides: Sequence[str]) -> Look:
    if place.is_dir() and not RunFolder(place).run_file.is_file():
        return FolderLook(place)
    settings, folder = find_run(place, overrides)
    return RunLook(settings, folder)


@dataclass(frozen=True, slots=True)
class FolderLook:
    """Looks at all runs below a folder."""

    folder: Path
    changes: bool = True

    def __call__(self, console: Console) -> RenderableType:
        """The runs as they stand."""
        return run_table(list_folder(self.folder), is_wide=console.width >= NARROW_COLUMNS)


class RunLook:
    """Looks at one run, and tells by two looks what its processes use."""

    def __init__(self, settings: RunFile, folder: RunFolder) -> None:
        self._settings = settings
        self._folder = folder
        self._before: dict[str, tuple[float, float]] = {}
        """Time and processor seconds of each process at the look before."""

    @property
    def changes(self) -> bool:
        """Whether its database is a server, or its monitor is at work."""
        return bool(self._settings.monitoring.clickhouse_url) or find_endpoint(self._folder) is not None

    def __call__(self, console: Console) -> RenderableType:
        """The run as it stands."""
        with open_reader(self._settings.monitoring, self._folder) as client:
            snapshot = read_snapshot(client, self._settings.run.id)
        height = console.height if console.is_terminal else PLAIN_LINES
        return picture(snapshot, self.find_cores(snapshot), width=console.width, height=height)

    def find_cores(self, snapshot: dict[str, Any]) -> dict[str, float]:
        """Cores in use by process since the look before, of those that were there."""
        cores, newest = {}, {}
        for part in snapshot["parts"]:
            seconds = part["measures"].get("cpu_seconds")
            if seconds is None:
                continue
            name, at_seconds = part["instance"], time.time() - part["told_seconds"]
            before_at, before_seconds = self._before.get(name, (at_seconds, seconds))
            newest[name] = (at_seconds, seconds)
            if at_seconds - before_at >= 0.5:
                cores[name] = max(0.0, (seconds - before_seconds) / (at_seconds - before_at))
            elif name in self._before:
                newest[name] = self._before[name]
        self._before = newest
        return cores

"""What ``tristream try`` shows while it works: a live table in a terminal, plain lines elsewhere; on standard error."""

import time
from types import TracebackType
from typing import Self

from rich.console import Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table

from tristream.cli.tables import open_console
from tristream.cli.trying_report import group_table
from tristream.local.trying.figures import SourceFigures
from tristream.local.trying.judged_groups import GroupKind
from tristream.local.trying.tryout import Tryout

REFRESH_SECONDS = 0.25
PLAIN_LINE_SECONDS = 10.0


class TryoutDisplay:
    """Shows how far a tryout is; nothing is left of the live table when it ends."""

    def __init__(self) -> None:
        self._console = open_console(stderr=True)
        self._is_live = self._console.is_terminal and not self._console.is_dumb_terminal
        self._live: Live | None = None
        self._shown_seconds = 0.0
        self._phase = ""
        self._told: set[str] = set()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    def show(self, tryout: Tryout) -> None:
        """Show what is new, now and then."""
        if self._is_live:
            self._show_live(tryout)
        else:
            self._say(tryout)

    def _show_live(self, tryout: Tryout) -> None:
        now = time.monotonic()
        if tryout.phase == self._phase and now - self._shown_seconds < REFRESH_SECONDS:
            return
        self._phase, self._shown_seconds = tryout.phase, now
        if self._live is None:
            self._live = Live(console=self._console, transient=True, refresh_per_second=4)
            self._live.start()
        self._live.update(picture(tryout), refresh=True)

    def _say(self, tryout: Tryout) -> None:
        for figures in tryout.figures:
            if figures.num_groups == tryout.num_groups and figures.source not in self._told:
                self._told.add(figures.source)
                self._console.print(describe_source(figures), soft_wrap=True)
        now = time.monotonic()
        is_new = tryout.phase != self._phase
        if is_new or now - self._shown_seconds >= PLAIN_LINE_SECONDS:
            self._phase, self._shown_seconds = tryout.phase, now
            self._console.print(tryout.phase if is_new else describe_progress(tryout), soft_wrap=True)


def picture(tryout: Tryout) -> RenderableType:
    """The groups of each source so far, and what goes on."""
    line = Table.grid(padding=(0, 2))
    if tryout.source:
        line.add_row(
            describe_progress(tryout),
            ProgressBar(total=tryout.num_wanted, completed=tryout.num_answered, width=20),
        )
    else:
        line.add_row(tryout.phase)
    seen = [figures for figures in tryout.figures if figures.num_groups]
    return Group(group_table(seen), line) if seen else line


def describe_progress(tryout: Tryout) -> str:
    """What goes on, in words."""
    if not tryout.source:
        return tryout.phase
    return f"{tryout.phase}: {tryout.num_answered} of {tryout.num_wanted} answers"


def describe_source(figures: SourceFigures) -> str:
    """The groups of a source in one line."""
    kinds = ", ".join(
        f"{number} {kind.replace('_', ' ')}" for kind in GroupKind if (number := figures.num_of(kind)) > 0
    )
    reward = "-" if figures.reward_mean is None else f"{figures.reward_mean:.2f}"
    return (
        f"{figures.source}: {figures.num_groups} groups ({kinds}), reward {reward}, {figures.generating_seconds:.1f} s"
    )

"""What a run shows while it works: a live table in a terminal, plain lines elsewhere."""

import time
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.table import Table

PLAIN_LINE_SECONDS = 10.0


class Progress:
    """Shows the state of the parts; close it before printing results."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console()
        self._live: Live | None = None
        self._last_line = ""
        self._last_line_time = 0.0

    def say(self, text: str) -> None:
        """Print one line of news."""
        self._console.print(text, highlight=False, markup=False, soft_wrap=True)

    def show_starting(self, missing: dict[str, dict[str, Any]]) -> None:
        """Say which parts are not ready yet, and what they wait for."""
        words = [
            f"{part} ({status['waiting_for']})" if status.get("waiting_for") else part
            for part, status in missing.items()
        ]
        line = f"waiting for {', '.join(words)}" if words else ""
        if line and line != self._last_line:
            self._last_line = line
            self.say(line)

    def show(self, statuses: dict[str, dict[str, Any]]) -> None:
        """Show how far the run is and what waits for what."""
        if self._console.is_terminal:
            if self._live is None:
                self._live = Live(console=self._console, refresh_per_second=4)
                self._live.start()
            self._live.update(status_table(statuses))
            return
        line = status_line(statuses)
        now = time.monotonic()
        if line != self._last_line and now - self._last_line_time >= PLAIN_LINE_SECONDS:
            self._last_line, self._last_line_time = line, now
            self.say(line)

    def close(self) -> None:
        """End the live display."""
        if self._live is not None:
            self._live.stop()
            self._live = None


def status_table(statuses: dict[str, dict[str, Any]]) -> Table:
    """Parts, their numbers, and what they wait for."""
    table = Table(box=None, pad_edge=False)
    for title in ("part", "state", "numbers", "waits for"):
        table.add_column(title, overflow="fold")
    for part, status in statuses.items():
        table.add_row(part, str(status.get("state", "")), numbers(status), str(status.get("waiting_for", "")))
    return table


def status_line(statuses: dict[str, dict[str, Any]]) -> str:
    """The same in one line: the learner's numbers and what it waits for."""
    learner = statuses.get("learner", {})
    waiting_for = learner.get("waiting_for")
    return f"learner: {numbers(learner)}" + (f"; waits for {waiting_for}" if waiting_for else "")


def numbers(status: dict[str, Any]) -> str:
    """Facts of a status as words."""
    hidden = {"state", "waiting_for", "pid", "time", "url", "port"}
    facts = {name: value for name, value in status.items() if name not in hidden}
    return ", ".join(f"{name.replace('_', ' ')} {_short(value)}" for name, value in facts.items())


def _short(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.3g}" if abs(value) < 100 else f"{value:.0f}"
    if isinstance(value, dict):
        return "(" + ", ".join(f"{name} {_short(item)}" for name, item in value.items()) + ")"
    return str(value)

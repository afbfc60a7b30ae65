"""What a run shows while it works: a live picture in a terminal, plain lines elsewhere."""

import time
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

PLAIN_LINE_SECONDS = 10.0
FATES_THAT_COUNT = ("trained", "evaluated")

Statuses = dict[str, dict[str, Any]]
HeldOutSources = dict[str, dict[str, Any]]


class Progress:
    """Shows the state of the parts; close it before printing results."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console()
        self._live: Live | None = None
        self._last_line = ""
        self._last_line_time = 0.0
        self._pace = Pace()

    def say(self, text: str) -> None:
        """Print one line of news."""
        self._console.print(text, highlight=False, markup=False, soft_wrap=True)

    def print(self, renderable: RenderableType) -> None:
        """Print a table or another renderable."""
        self._console.print(renderable)

    def show_starting(self, missing: Statuses) -> None:
        """Say which parts are not ready yet, and what they wait for."""
        words = [
            f"{part} ({status['waiting_for']})" if status.get("waiting_for") else part
            for part, status in missing.items()
        ]
        line = f"waiting for {', '.join(words)}"
        if words and line != self._last_line:
            self._last_line = line
            self.say(line)

    def show(self, statuses: Statuses, held_out: HeldOutSources) -> None:
        """Show how far the run is and what waits for what."""
        learner = statuses.get("learner", {})
        step, total = int(learner.get("version", 0)), int(learner.get("total", 0))
        self._pace.observe(step)
        left = self._pace.describe_rest(total - step)
        if self._console.is_terminal and not self._console.is_dumb_terminal:
            if self._live is None:
                self._live = Live(console=self._console, refresh_per_second=4)
                self._live.start()
            self._live.update(picture(statuses, held_out, left))
            return
        now = time.monotonic()
        if now - self._last_line_time >= PLAIN_LINE_SECONDS:
            self._last_line_time = now
            self.say(status_line(statuses, left))

    def close(self) -> None:
        """End the live display."""
        if self._live is not None:
            self._live.stop()
            self._live = None


class Pace:
    """How fast steps come, to tell how long the rest will take."""

    def __init__(self) -> None:
        self._first: tuple[int, float] | None = None
        self._newest = (0, 0.0)

    def observe(self, step: int) -> None:
        """Note the time when a step is seen for the first time."""
        if self._first is None and step > 0:
            self._first = (step, time.monotonic())
        if step > self._newest[0]:
            self._newest = (step, time.monotonic())

    def describe_rest(self, num_steps: int) -> str:
        """Time that the steps will take, in words; empty while that is unknown."""
        if self._first is None or self._newest[0] <= self._first[0] or num_steps <= 0:
            return ""
        seconds_per_step = (self._newest[1] - self._first[1]) / (self._newest[0] - self._first[0])
        seconds = num_steps * seconds_per_step
        return f"{seconds / 60:.0f} min left" if seconds >= 90 else f"{seconds:.0f} s left"


def picture(statuses: Statuses, held_out: HeldOutSources, left: str) -> RenderableType:
    """Progress bar, one row a source, and what waits for what."""
    learner = statuses.get("learner", {})
    step, total = int(learner.get("version", 0)), int(learner.get("total", 0) or 1)
    head = Table.grid(padding=(0, 2))
    head.add_row(f"step {step}/{total}", ProgressBar(total=total, completed=step, width=30), left)
    table = Table(box=None, pad_edge=False)
    table.add_column("source")
    table.add_column("reward", justify="right")
    table.add_column("held-out", justify="right")
    rewards = learner.get("reward", {})
    for source in dict.fromkeys([*held_out, *rewards]):
        reward = f"{rewards[source]:.2f}" if source in rewards else "-"
        table.add_row(source, reward, _describe_held_out(held_out.get(source, {})))
    facts = Text("; ".join(text for text in (describe_learner(learner), describe_drops(statuses)) if text), style="dim")
    return Group(head, table, facts, Text(waits(statuses), style="dim"))


def status_line(statuses: Statuses, left: str) -> str:
    """The same in one line."""
    learner = statuses.get("learner", {})
    rewards = learner.get("reward", {})
    parts = [f"step {learner.get('version', 0)}/{learner.get('total', '?')}"]
    if rewards:
        mean = sum(rewards.values()) / len(rewards)
        by_source = ", ".join(f"{source} {value:.2f}" for source, value in rewards.items())
        parts.append(f"reward {mean:.2f} ({by_source})")
    facts = (describe_learner(learner), describe_drops(statuses), left, waits(statuses))
    parts.extend(text for text in facts if text)
    return "; ".join(parts)


def describe_learner(learner: dict[str, Any]) -> str:
    """Speed and staleness of the newest step."""
    if "tokens_per_second" not in learner:
        return ""
    return f"{learner['tokens_per_second']:.0f} tokens/s, staleness {learner['staleness']}"


def describe_drops(statuses: Statuses) -> str:
    """Groups that the assembler dropped since it started, by reason."""
    groups: dict[str, int] = statuses.get("assembler", {}).get("groups", {})
    reasons = {name: count for name, count in groups.items() if name not in FATES_THAT_COUNT}
    return f"dropped {', '.join(f'{count} {name}' for name, count in sorted(reasons.items()))}" if reasons else ""


def waits(statuses: Statuses) -> str:
    """Which parts wait, and for what."""
    return ", ".join(
        f"{part} waits for {status['waiting_for']}" for part, status in statuses.items() if status.get("waiting_for")
    )


def _describe_held_out(facts: dict[str, Any]) -> str:
    before, now = facts.get("before"), facts.get("now")
    if before is None or now is None:
        return "-"
    if before["eval_step"] == now["eval_step"]:
        return f"{before['value']:.3f}"
    return f"{before['value']:.3f} -> {now['value']:.3f}"

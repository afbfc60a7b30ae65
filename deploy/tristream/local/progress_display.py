"""What a run shows while it works: a live picture in a terminal, plain lines elsewhere."""

import time
from collections.abc import Mapping
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from tristream.local.part_statuses import Statuses
from tristream.wire.events import Fate, Part

PLAIN_LINE_SECONDS = 10.0
FATES_THAT_COUNT = (Fate.TRAINED, Fate.EVALUATED)

Measures = Mapping[str, float]
HeldOutSources = Mapping[str, Mapping[str, Any]]


class ProgressDisplay:
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

    def show_starting(self, missing: Mapping[Part, str]) -> None:
        """Say which parts are not ready yet, and what each waits for, if that is known."""
        words = [f"{part} ({waiting_for})" if waiting_for else part for part, waiting_for in missing.items()]
        line = f"waiting for {', '.join(words)}"
        if words and line != self._last_line:
            self._last_line = line
            self.say(line)

    def show(self, statuses: Statuses, held_out: HeldOutSources) -> None:
        """Show how far the run is and what waits for what."""
        step, total = describe_step(measures_of(statuses, Part.LEARNER))
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
    learner = measures_of(statuses, Part.LEARNER)
    step, total = describe_step(learner)
    head = Table.grid(padding=(0, 2))
    head.add_row(f"step {step}/{total}", ProgressBar(total=max(total, 1), completed=step, width=30), left)
    table = Table(box=None, pad_edge=False)
    table.add_column("source")
    table.add_column("reward", justify="right")
    table.add_column("held-out", justify="right")
    rewards = by_suffix(learner, "reward/")
    for source in dict.fromkeys([*held_out, *rewards]):
        reward = f"{rewards[source]:.2f}" if source in rewards else "-"
        table.add_row(source, reward, _describe_held_out(held_out.get(source, {})))
    facts = (describe_speed(learner), describe_drops(statuses), describe_replicas(statuses))
    shown = Text("; ".join(text for text in facts if text), style="dim")
    return Group(head, table, shown, Text(describe_waits(statuses), style="dim"))


def status_line(statuses: Statuses, left: str) -> str:
    """The same in one line."""
    learner = measures_of(statuses, Part.LEARNER)
    step, total = describe_step(learner)
    words = [f"step {step}/{total or '?'}"]
    rewards = by_suffix(learner, "reward/")
    if rewards:
        mean = sum(rewards.values()) / len(rewards)
        by_source = ", ".join(f"{source} {value:.2f}" for source, value in rewards.items())
        words.append(f"reward {mean:.2f} ({by_source})")
    facts = (
        describe_speed(learner),
        describe_drops(statuses),
        describe_replicas(statuses),
        left,
        describe_waits(statuses),
    )
    words.extend(text for text in facts if text)
    return "; ".join(words)


def measures_of(statuses: Statuses, part: Part) -> Measures:
    """Numbers of the process of a part that was started last; none while it has told none."""
    return statuses[part][-1].measures if part in statuses else {}


def by_suffix(measures: Measures, prefix: str) -> dict[str, float]:
    """The measures ``PREFIXname`` by name."""
    return {name.removeprefix(prefix): value for name, value in sorted(measures.items()) if name.startswith(prefix)}


def describe_step(learner: Measures) -> tuple[int, int]:
    """Steps done and steps of the run, as far as the learner has told."""
    return int(learner.get("version", 0)), int(learner.get("total_steps", 0))


def describe_speed(learner: Measures) -> str:
    """Speed and staleness of the newest step."""
    if "tokens_per_second" not in learner:
        return ""
    return f"{learner['tokens_per_second']:.0f} tokens/s, staleness {learner.get('staleness', 0):.0f}"


def describe_drops(statuses: Statuses) -> str:
    """Groups that the assembler dropped since it started, by reason."""
    groups = by_suffix(measures_of(statuses, Part.ASSEMBLER), "groups/")
    reasons = {name: count for name, count in groups.items() if name not in FATES_THAT_COUNT and count > 0}
    return f"dropped {', '.join(f'{count:.0f} {name}' for name, count in reasons.items())}" if reasons else ""


def describe_replicas(statuses: Statuses) -> str:
    """Parts that are more than one process."""
    return ", ".join(f"{len(instances)} {part}s" for part, instances in statuses.items() if len(instances) > 1)


def describe_waits(statuses: Statuses) -> str:
    """Which parts wait, and for what."""
    return ", ".join(
        f"{part} waits for {reason}"
        for part, instances in statuses.items()
        for reason in dict.fromkeys(status.waiting_for for status in instances)
        if reason
    )


def _describe_held_out(facts: Mapping[str, Any]) -> str:
    before, now = facts.get("before"), facts.get("now")
    if before is None or now is None:
        return "-"
    if before["eval_step"] == now["eval_step"]:
        return f"{before['value']:.3f}"
    return f"{before['value']:.3f} -> {now['value']:.3f}"

"""What a run shows while it works: a live picture in a terminal, plain lines elsewhere."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from tristream.local.part_statuses import Statuses
from tristream.local.source_fates import SourceFate, describe_fates
from tristream.local.status_files import BROKER_PREFIX
from tristream.wire.events import Fate, Part
from tristream.wire.events.parts import JUDGED_REWARD, TRAINED_REWARD

PLAIN_LINE_SECONDS = 10.0
SILENT_LINE_SECONDS = 60.0
"""A plain line that has nothing new is said again after this time."""
FATES_THAT_COUNT = (Fate.TRAINED, Fate.EVALUATED)

Measures = Mapping[str, float]
HeldOutSources = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """What is known of a run."""

    statuses: Statuses
    held_out: HeldOutSources = field(default_factory=dict)
    """By source: ``before`` and ``now``, the first and the newest complete round, or None."""
    fates: Sequence[SourceFate] = ()
    verifiers: str = ""
    """What became of verifiers that were added, in words; empty without any."""
    trouble: str = ""
    """What keeps the whole run waiting, such as a broker that does not answer."""


class ProgressDisplay:
    """Shows the state of the parts; close it before printing results."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console()
        self._live: Live | None = None
        self._last_line = ""
        self._last_line_time = 0.0
        self._last_words: list[str] = []
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

    def show(self, progress: Progress) -> None:
        """Show how far the run is and what waits for what."""
        step, total = describe_step(measures_of(progress.statuses, Part.LEARNER))
        self._pace.observe(step)
        left = self._pace.describe_rest(total - step)
        if self._console.is_terminal and not self._console.is_dumb_terminal:
            if self._live is None:
                self._live = Live(console=self._console, refresh_per_second=4)
                self._live.start()
            self._live.update(picture(progress, left))
            return
        self._say_what_is_new(status_words(progress, left), describe_fates(progress.fates))

    def _say_what_is_new(self, words: list[str], lines: list[str]) -> None:
        """Say the step again and again, and of the rest what has changed."""
        now = time.monotonic()
        new = [word for word in [*words, *lines] if word not in self._last_words]
        if now - self._last_line_time < (PLAIN_LINE_SECONDS if new else SILENT_LINE_SECONDS):
            return
        self._last_line_time, self._last_words = now, [*words, *lines]
        self.say("; ".join([words[0], *(word for word in words[1:] if word in new)]))
        for line in lines:
            if line in new:
                self.say(f"  {line}")

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


def picture(progress: Progress, left: str) -> RenderableType:
    """Progress bar, one row a source, what people should look at, and what waits for what."""
    statuses = progress.statuses
    learner = measures_of(statuses, Part.LEARNER)
    step, total = describe_step(learner)
    head = Table.grid(padding=(0, 2))
    head.add_row(f"step {step}/{total}", ProgressBar(total=max(total, 1), completed=step, width=30), left)
    facts = (describe_speed(learner), describe_drops(statuses), describe_replicas(statuses))
    looked_at = Text("\n".join(describe_fates(progress.fates)), style="yellow", no_wrap=True, overflow="ellipsis")
    trouble = Text(progress.trouble, style="red")
    shown = Text("; ".join(text for text in facts if text), style="dim")
    verifiers = Text(progress.verifiers, style="dim")
    lines = (looked_at, trouble, verifiers, shown, Text(describe_waits(statuses), style="dim"))
    return Group(head, _source_table(progress), *(line for line in lines if line.plain))


def _source_table(progress: Progress) -> Table:
    """One row a source; the reward is over all judged rollouts of the newest batch, trained and dropped."""
    table = Table(box=None, pad_edge=False)
    table.add_column("source")
    for title in ("reward,\nof judged", "held-out", "dropped", "all wrong"):
        table.add_column(title, justify="right", no_wrap=True)
    rewards = by_suffix(measures_of(progress.statuses, Part.ASSEMBLER), JUDGED_REWARD)
    fates = {fate.source: fate for fate in progress.fates}
    for source in dict.fromkeys([*progress.held_out, *rewards, *fates]):
        fate = fates.get(source)
        table.add_row(
            source,
            f"{rewards[source]:.2f}" if source in rewards else "-",
            _describe_held_out(progress.held_out.get(source, {})),
            "-" if fate is None else f"{fate.dropped_share:.0%}",
            "-" if fate is None or fate.all_wrong is None else f"{fate.all_wrong:.0%}",
        )
    return table


def status_words(progress: Progress, left: str) -> list[str]:
    """The same in words, the step first."""
    statuses = progress.statuses
    learner = measures_of(statuses, Part.LEARNER)
    step, total = describe_step(learner)
    words = [f"step {step}/{total or '?'}"]
    facts = (
        describe_rewards(statuses),
        describe_speed(learner),
        describe_drops(statuses),
        describe_replicas(statuses),
        left,
        progress.verifiers,
        progress.trouble,
        describe_waits(statuses),
    )
    return [*words, *(text for text in facts if text)]


def measures_of(statuses: Statuses, part: Part) -> Measures:
    """Numbers of the process of a part that was started last; none while it has told none."""
    return statuses[part][-1].measures if part in statuses else {}


def by_suffix(measures: Measures, prefix: str) -> dict[str, float]:
    """The measures ``PREFIXname`` by name."""
    return {name.removeprefix(prefix): value for name, value in sorted(measures.items()) if name.startswith(prefix)}


def describe_step(learner: Measures) -> tuple[int, int]:
    """Steps done and steps of the run, as far as the learner has told."""
    return int(learner.get("version", 0)), int(learner.get("total_steps", 0))


def describe_rewards(statuses: Statuses) -> str:
    """Training reward over all judged rollouts, mean of the sources and by source; beside it that of trained ones.

    Groups without variance are judged and not trained, so the second says nothing about how good the policy is.
    """
    judged = by_suffix(measures_of(statuses, Part.ASSEMBLER), JUDGED_REWARD)
    trained = by_suffix(measures_of(statuses, Part.LEARNER), TRAINED_REWARD)
    words = []
    if judged:
        by_source = ", ".join(f"{source} {value:.2f}" for source, value in judged.items())
        words.append(f"reward of all judged {sum(judged.values()) / len(judged):.2f} ({by_source})")
    if trained:
        words.append(f"{'' if judged else 'reward '}of trained only {sum(trained.values()) / len(trained):.2f}")
    return ", ".join(words)


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
    """Which parts wait, and for what; those that wait for the broker are named together."""
    for_broker: list[str] = []
    words: list[str] = []
    for part, instances in statuses.items():
        for reason in dict.fromkeys(status.waiting_for for status in instances):
            if reason.startswith(BROKER_PREFIX):
                for_broker.append(part)
            elif reason:
                words.append(f"{part} waits for {reason}")
    if for_broker:
        names = list(dict.fromkeys(for_broker))
        words.append(f"{', '.join(names)} {'waits' if len(names) == 1 else 'wait'} for the broker")
    return ", ".join(words)


def _describe_held_out(facts: Mapping[str, Any]) -> str:
    before, now = facts.get("before"), facts.get("now")
    if before is None or now is None:
        return "-"
    if before["eval_step"] == now["eval_step"]:
        return f"{before['value']:.3f}"
    return f"{before['value']:.3f} -> {now['value']:.3f}"

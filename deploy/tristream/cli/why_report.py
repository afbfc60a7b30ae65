"""What ``tristream why`` prints: a bar for each cause, rollouts beside each other, and commands."""

from collections.abc import Mapping
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from tristream.cli.tables import open_console
from tristream.monitoring.queries.why.explanation import Cause, Explanation

BAR_CHARACTERS = 20
MAX_TEXT_CHARACTERS = 110
LEAST_SHOWN = 0.0005
"""Causes that stand out in nothing and moved the reward by less are left out."""


def print_explanation(found: Explanation) -> None:
    """Print it for people."""
    console = open_console()
    change = found.change
    console.print(Text(_printable(found.verdict), style="bold"))
    console.print(
        f"steps {_range(change.steps_before)} against {_range(change.steps_after)}, all judged rollouts"
        f"{f' of {found.source}' if found.source else ''}: {change.delta:+.3f} ± {change.error:.3f}"
    )
    for name, row in found.held_out.items():
        console.print(_held_out(name, row))
    for note in found.notes:
        console.print(_printable(note))
    console.print(causes_table(found))
    for pair in found.pairs:
        console.print(f"sample {_printable(str(pair['sample_id']))}")
        for side in ("before", "after"):
            console.print(_rollout(side, pair[side]))
    if found.commands:
        console.print("\nlook closer:")
        for command in found.commands:
            console.print(f"  {command}", soft_wrap=True)


def causes_table(found: Explanation) -> Table:
    """A row a cause; the bar is its share of all that moved, to the left if it lowered the reward."""
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("")
    table.add_column("cause", overflow="fold")
    table.add_column("source", overflow="fold")
    table.add_column("lowers | raises", justify="center", no_wrap=True)
    for title in ("share", "change", "±"):
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column("before -> after", overflow="fold", ratio=1)
    for cause in found.causes:
        if not cause.stands_out and abs(cause.delta) < LEAST_SHOWN:
            continue
        table.add_row(
            "*" if cause.stands_out else "", cause.title, cause.source, draw_bar(cause), f"{cause.share:.0%}",
            f"{cause.delta:+.3f}", f"{cause.error:.3f}", _printable("\n".join([cause.detail, *cause.evidence])),
            style="" if cause.stands_out else "dim",
        )  # fmt: skip
    return table


def draw_bar(cause: Cause) -> str:
    """Such as ``    ████|        `` for a cause that lowered the reward by four tenths of all that moved."""
    half = BAR_CHARACTERS // 2
    filled = "█" * min(half, round(cause.share * half))
    return f"{filled if cause.delta < 0 else '':>{half}}|{filled if cause.delta >= 0 else '':<{half}}"


def _range(steps: tuple[int, int]) -> str:
    return f"{steps[0]}..{steps[1]}"


def _held_out(name: str, row: Mapping[str, Any]) -> str:
    sides = [
        f"{row[f'value_{side}']:.3f} ± {row[f'standard_error_{side}'] or 0:.3f} (step {row[f'eval_step_{side}']})"
        for side in ("before", "after")
    ]
    return f"held-out {name}, {row['metric']}: {sides[0]} -> {sides[1]}"


def _rollout(side: str, rollout: Mapping[str, Any]) -> str:
    said = ", ".join(f"{name} {value:g}" for name, value in rollout["components"].items())
    broken = ", ".join(f"{name} {status}" for name, status in rollout["statuses"].items() if status != "scored")
    boxes = len(rollout["predicted_boxes"]), len(rollout["true_boxes"])
    words = [f"{boxes[0]} boxes, {boxes[1]} true" if any(boxes) else "", said, broken]
    if rollout["finish_reason"] != "stop":
        words.append(f"ended by {rollout['finish_reason']}")
    text = " ".join(str(rollout["text"] or rollout["error"]).split())
    text = text if len(text) <= MAX_TEXT_CHARACTERS else f"{text[:MAX_TEXT_CHARACTERS]}..."
    reward = "none" if rollout["reward"] is None else f"{rollout['reward']:.3f}"
    head = f"  {side:<6} {rollout['number']}/{rollout['rollout_index']} step {rollout['at_step']} reward {reward}"
    return f"{head} ({'; '.join(filter(None, words))})\n         {_printable(text)}"


def _printable(text: str) -> str:
    """Without what could steer a terminal: answers of models are anything."""
    return "".join(character if character.isprintable() or character == "\n" else "·" for character in text)

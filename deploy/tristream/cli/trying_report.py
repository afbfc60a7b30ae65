"""What ``tristream try`` prints in the end: tables, answers, what to mend, the steps per hour; or all of it as JSON."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from rich import box
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from tristream.cli.tables import open_console
from tristream.local.trying.figures import SourceFigures, component_names
from tristream.local.trying.judged_groups import GroupKind, TermVerdict
from tristream.local.trying.shown_answers import ShownAnswer, choose_answers
from tristream.local.trying.tryout import Tryout
from tristream.wire.events import Status

MAX_PROMPT_CHARACTERS = 300
KIND_TITLES = {
    GroupKind.MIXED: "mixed",
    GroupKind.ALL_RIGHT: "all right",
    GroupKind.ALL_WRONG: "all wrong",
    GroupKind.ALL_EQUAL: "all equal",
    GroupKind.UNSCORED: "unscored",
}
RARE_KINDS = (GroupKind.ALL_EQUAL, GroupKind.UNSCORED)
"""They have a column only where there are any."""
LEFT_OUT = "It leaves out scoring, learning, evaluation, pauses, and that the policy changes."


def print_report(tryout: Tryout) -> None:
    """Print what was found for people."""
    console = open_console()
    seen = [figures for figures in tryout.figures if figures.num_groups]
    if not seen:
        console.print(f"interrupted before any group was judged ({tryout.phase})")
        return
    if tryout.is_interrupted:
        console.print(describe_missing(tryout))
    console.print(group_table(seen))
    console.print(answer_table(seen))
    for figures in seen:
        for shown in choose_answers(tryout.groups[figures.source]):
            _print_answer(console, shown)
    _print_advice(console, tryout)
    for line in pace_lines(tryout):
        console.print(line)


def describe_missing(tryout: Tryout) -> str:
    """What was not tried, as it was interrupted."""
    missing = [
        f"{each.source} ({each.num_groups} of {tryout.num_groups} groups)"
        for each in tryout.figures
        if each.num_groups < tryout.num_groups
    ]
    return f"interrupted, so these are not tried to the end: {', '.join(missing)}"


def print_json(tryout: Tryout) -> None:
    """Print all figures as one JSON object."""
    pace = tryout.pace()
    advice = tryout.advice()
    found: dict[str, Any] = {
        "can_learn": tryout.can_learn,
        "interrupted": tryout.is_interrupted,
        "groups_wanted": tryout.num_groups,
        "pace": None if pace is None else asdict(pace),
        "sources": [
            {
                **asdict(figures),
                "mixed_share": figures.mixed_share,
                "cut_off_share": figures.cut_off_share,
                "answers": [_answer_fields(shown) for shown in choose_answers(tryout.groups[figures.source])],
                "advice": [asdict(each) for each in advice if each.source == figures.source],
            }
            for figures in tryout.figures
        ],
    }
    print(json.dumps(found, indent=2))


def group_table(seen: Sequence[SourceFigures]) -> Table:
    """What the groups of each source have to teach."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("source", overflow="fold")
    table.add_column("groups", justify="right")
    kinds = [kind for kind in GroupKind if kind not in RARE_KINDS or any(each.num_of(kind) for each in seen)]
    for kind in kinds:
        table.add_column(KIND_TITLES[kind], justify="right")
    table.add_column("reward", justify="right")
    for each in seen:
        counts = [str(each.num_of(kind)) for kind in kinds]
        reward = "-" if each.reward_mean is None else f"{each.reward_mean:.2f}"
        table.add_row(each.source, str(each.num_groups), *counts, reward)
    return table


def answer_table(seen: Sequence[SourceFigures]) -> Table:
    """What the answers of each source are worth, how long they are, and what they take."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("source", overflow="fold")
    table.add_column("components")
    for title in ("tokens", "p90", "cut off", "generated", "scored"):
        table.add_column(title, justify="right")
    for each in seen:
        components = ", ".join(f"{name} {component.mean:.2f}" for name, component in each.components.items())
        table.add_row(
            each.source,
            components or "-",
            f"{each.tokens_mean:.0f}",
            str(each.tokens_p90),
            f"{each.cut_off_share:.0%}",
            describe_seconds(each.generating_seconds),
            describe_seconds(each.scoring_seconds),
        )
    return table


def pace_lines(tryout: Tryout) -> list[str]:
    """The steps per hour to expect at most, and what that leaves out."""
    pace = tryout.pace()
    if not tryout.can_learn:
        return ["Nothing would be trained: no group is mixed."]
    if pace is None:
        return []
    of_some = " of these sources alone" if sum(map(bool, tryout.groups.values())) < len(tryout.settings.sources) else ""
    step = f"{pace.generated_groups_per_step:.1f} groups and {pace.seconds_per_step:.1f} s of generating"
    return [
        f"At most {pace.steps_per_hour:,.0f} steps an hour{of_some}: {pace.kept_share:.0%} of the groups are kept.",
        f"A step of {pace.groups_per_step} takes {step}, {pace.num_places} answers at once.",
        LEFT_OUT,
    ]


def _print_advice(console: Console, tryout: Tryout) -> None:
    advice = tryout.advice()
    if not advice:
        console.print("Nothing was seen that would keep it from learning.\n")
        return
    console.print("What would keep it from learning, or costs time:\n")
    for each in advice:
        lines = Table.grid(padding=(0, 1))
        lines.add_row("-", Text(printable(f"{each.source}: {each.what}"), style="bold" if each.blocks else ""))
        lines.add_row("", Text(f"-> {each.remedy}"))
        console.print(Padding(lines, (0, 0, 0, 2), expand=False))
    console.print()


def _print_answer(console: Console, shown: ShownAnswer) -> None:
    answer, reward = shown.answer, shown.answer.reward
    rollout = answer.rollout
    worth = [] if reward is None else [f"reward {reward:.2f}"]
    words = ", ".join([*worth, *describe_components(answer.verdicts)])
    console.print(Text(f"{rollout.group.source}, {shown.caption}{f': {words}' if words else ''}", style="bold"))
    lines = Table.grid(padding=(0, 2))
    lines.add_column()
    lines.add_column(overflow="fold")
    lines.add_row("asked", printable(shorten(_question(shown))))
    lines.add_row("wanted", printable(shorten(rollout.reward.ground_truth)))
    if rollout.error:
        lines.add_row("failed", printable(rollout.error))
    else:
        lines.add_row("answered", printable(rollout.text) or "(nothing)")
    for verdict in answer.verdicts:
        if verdict.status is not Status.SCORED:
            lines.add_row(str(verdict.status), printable(f"{verdict.term.id}: {verdict.detail}"))
    console.print(Padding(lines, (0, 0, 1, 2), expand=False))


def describe_components(verdicts: Sequence[TermVerdict]) -> list[str]:
    """Values of the components that count."""
    names = component_names([verdict.term for verdict in verdicts])
    return [
        f"{label} {verdict.judgement.components[name]:g}"
        for verdict in verdicts
        for (term_id, name), label in names.items()
        if term_id == verdict.term.id and name in verdict.judgement.components
    ]


def describe_seconds(seconds: float) -> str:
    """Seconds for people: ``0.03 s``, ``2.1 s``, ``340 s``."""
    return f"{seconds:.2f} s" if seconds < 1 else f"{seconds:.1f} s" if seconds < 100 else f"{seconds:.0f} s"


def shorten(text: str) -> str:
    """A text in one line of bounded length; of a long one begin and end."""
    words = " ".join(text.split())
    half = MAX_PROMPT_CHARACTERS // 2
    return words if len(words) <= MAX_PROMPT_CHARACTERS else f"{words[:half]} ... {words[-half:]}"


def printable(text: str) -> str:
    """A text as it is, but for characters that would move the cursor of a terminal."""
    escaped = (
        letter if letter.isprintable() or letter == "\n" else letter.encode("unicode_escape").decode()
        for letter in text
    )
    return "".join(escaped).rstrip("\n")


def _question(shown: ShownAnswer) -> str:
    return shown.group.prompt.messages[-1].content if shown.group.prompt.messages else ""


def _answer_fields(shown: ShownAnswer) -> dict[str, Any]:
    answer = shown.answer
    return {
        "caption": shown.caption,
        "group": answer.rollout.group.id,
        "index": answer.rollout.index,
        "reward": answer.reward,
        "messages": [asdict(message) for message in shown.group.prompt.messages],
        "ground_truth": answer.rollout.reward.ground_truth,
        "text": answer.rollout.text,
        "finish_reason": answer.rollout.finish_reason,
        "error": answer.rollout.error,
        "verdicts": [
            {
                "term": verdict.term.id,
                "status": verdict.status,
                "detail": verdict.detail,
                "components": dict(verdict.judgement.components),
                "metrics": dict(verdict.judgement.metrics),
            }
            for verdict in answer.verdicts
        ],
    }

"""``tristream show``: one rollout for people."""

import re
import time
from typing import TYPE_CHECKING, Any

from rich import box
from rich.table import Table

from tristream.cli.tables import open_console
from tristream.runtime.errors import UserError
from tristream.runtime.run_folder import RunFolder
from tristream.wire.events import Part

if TYPE_CHECKING:
    from tristream.monitoring.queries.rollout_details import RolloutKey

_WHOLE = re.compile(r"(?:#?rollout=)?(train|eval)/(-?[0-9]+)/([0-9]+)/([0-9]+)/([0-9]+)")
_SHORT = re.compile(r"([0-9]+)/([0-9]+)")


def parse_key(text: str) -> "RolloutKey":
    """The rollout that is meant.

    Raises:
        UserError: the text names none.

    Example:
        >>> parse_key("417/2")
        ('train', 0, 0, 417, 2)
    """
    address = text.rpartition("#")[2]
    if match := _WHOLE.fullmatch(address):
        return match[1], int(match[2]), int(match[3]), int(match[4]), int(match[5])
    if match := _SHORT.fullmatch(text):
        return "train", 0, 0, int(match[1]), int(match[2])
    raise UserError(
        f"'{text}' names no rollout",
        where="ROLLOUT",
        remedy="write NUMBER/INDEX, such as 417/2, or what a permalink of the page ends with",
    )


def permalink(folder: RunFolder, key: "RolloutKey") -> str:
    """Address of the rollout on the run's page; while no monitor of this machine serves it, what it ends with."""
    from tristream.local.status_files import read_status_files
    from tristream.monitoring.store.reading import FRESH_SECONDS

    oldest_ns = time.time_ns() - int(FRESH_SECONDS * 1e9)
    pages = [
        status.address
        for status in read_status_files(folder.status, "")
        if status.part is Part.MONITOR and status.created_ns > oldest_ns
    ]
    return f"{pages[0] if pages else ''}#rollout={'/'.join(map(str, key))}"


def print_rollout(rollout: dict[str, Any], address: str) -> None:
    """Print it."""
    console = open_console()
    for title, text in (
        ("prompt", rollout["prompt"]),
        ("answer", rollout["text"] or f"none: {rollout['error']}"),
        ("truth", rollout["truth"]),
    ):
        console.print(f"{title}:")
        console.print("\n".join(f"  {line}" for line in str(text).splitlines()) or "  (empty)", soft_wrap=True)
    console.print(_verdict_table(rollout))
    for line in (*_fate_lines(rollout), f"permalink: {address}"):
        console.print(line, soft_wrap=True)


def _verdict_table(rollout: dict[str, Any]) -> Table:
    table = Table(box=box.SIMPLE_HEAD)
    for title in ("term", "verifier", "counts", "status", "components", "says"):
        table.add_column(title)
    for verdict in rollout["verdicts"]:
        counts = "yes" if verdict["is_active"] else "shadow" if verdict["is_shadow"] else "no"
        components = ", ".join(f"{name} {value:.3g}" for name, value in verdict["components"].items())
        name = f"{verdict['verifier']}@{verdict['version']}"
        table.add_row(verdict["term_id"], name, counts, verdict["status"], components, verdict["detail"])
    for term in rollout["awaited"]:
        name = f"{term['verifier']}@{term['version']}"
        table.add_row(term["term_id"], name, "shadow" if term["mode"] == "shadow" else "yes", "awaited", "", "")
    return table


def _fate_lines(rollout: dict[str, Any]) -> list[str]:
    facts = [f"source {rollout['source']}", f"policy version {rollout['version']}", f"{rollout['num_tokens']} tokens"]
    facts.append(f"ended by {rollout['finish_reason']}")
    fate = rollout["fate"] or "not settled"
    reason = f" ({rollout['reason']})" if rollout["reason"] else ""
    at_step = f" at step {rollout['at_step']}" if rollout["at_step"] else ""
    rewards = ", ".join(
        f"{'*' if item['rollout_index'] == rollout['rollout_index'] else ''}{_number(item['reward'])}"
        for item in rollout["siblings"]
    )
    worth = f"reward {_number(rollout['reward'])}, advantage {_number(rollout['advantage'])}"
    group = f"its group was {fate}{reason}{at_step}; rewards of the group: {rewards}"
    return [", ".join(facts), f"{worth}; {group}"]


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"

"""What becomes of the groups of each source, as the monitor counts it, or the dispatcher while no monitor answers."""

import json
import time
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

ASK_SECONDS = 10.0
TIMEOUT_SECONDS = 1.0
OLD_SECONDS = 60.0
"""What the page said so long ago is shown no more."""
FEWEST_GROUPS = 16
"""Of fewer groups a share says little."""
WORRYING_DROPPED = 0.75
WORRYING_WRONG = 0.5
MAX_TEXT = 60
"""Characters of an answer or a truth."""
MAX_DESCRIBED = 3
"""Sources that are described at a time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceFate:
    """The newest settled groups of one source."""

    source: str
    num_groups: int = FEWEST_GROUPS
    """How many they are."""
    dropped: Mapping[str, float] = field(default_factory=dict)
    """Share of them that was dropped, by reason."""
    all_wrong: float | None = None
    """Share of them without any reward; None while that is unknown."""
    paused: str = ""
    """Why the source is paused; empty if it is not."""
    answer: str = ""
    """An answer to a dropped group."""
    truth: str = ""
    """What was wanted."""

    @property
    def dropped_share(self) -> float:
        """Share of the groups that was dropped."""
        return sum(self.dropped.values())

    @property
    def is_worrying(self) -> bool:
        """Whether people should look at it."""
        is_lost = self.dropped_share >= WORRYING_DROPPED or (self.all_wrong or 0.0) >= WORRYING_WRONG
        return bool(self.paused) or (is_lost and self.num_groups >= FEWEST_GROUPS)


class SourceFates:
    """Asks the live page every few seconds; used by one thread."""

    def __init__(self) -> None:
        self._ask_from = 0.0
        self._told = -OLD_SECONDS
        self._fates: Sequence[SourceFate] = ()

    def update(self, url: str, dispatcher: Mapping[str, float]) -> Sequence[SourceFate]:
        """What is known now.

        Args:
            url: address of the live page; empty while it is unknown.
            dispatcher: what the dispatcher measures.
        """
        now = time.monotonic()
        if url and now >= self._ask_from:
            self._ask_from = now + ASK_SECONDS
            try:
                with urllib.request.urlopen(f"{url.rstrip('/')}/api/sources", timeout=TIMEOUT_SECONDS) as response:
                    self._fates, self._told = [fate_from_page(row) for row in json.load(response)], now
            except (OSError, ValueError, KeyError, TypeError):
                self._ask_from = now + 4 * ASK_SECONDS
        return self._fates if now - self._told < OLD_SECONDS else fates_from_measures(dispatcher)


def fate_from_page(row: Mapping[str, Any]) -> SourceFate:
    """A row of ``/api/sources``."""
    num_groups, answer = row["num_groups"], row["answer"] or {}
    return SourceFate(
        source=row["source"],
        num_groups=num_groups,
        dropped={reason: number / num_groups for reason, number in row["dropped"].items()} if num_groups else {},
        all_wrong=row["num_all_wrong"] / num_groups if num_groups else None,
        paused=row["paused"],
        answer=answer.get("text") or answer.get("error") or "",
        truth=answer.get("truth", ""),
    )


def fates_from_measures(measures: Mapping[str, float]) -> list[SourceFate]:
    """From ``paused/SOURCE`` and ``drops/SOURCE/REASON``, shares of the newest groups."""
    names = [name.removeprefix("paused/") for name in measures if name.startswith("paused/")]
    return [
        SourceFate(
            source=name,
            dropped={
                key.removeprefix(f"drops/{name}/"): share
                for key, share in measures.items()
                if key.startswith(f"drops/{name}/") and share > 0
            },
            paused="see what the dispatcher waits for" if measures[f"paused/{name}"] else "",
        )
        for name in names
    ]


def describe_fates(fates: Sequence[SourceFate]) -> list[str]:
    """Lines about the sources that people should look at, paused ones and the worst first."""
    worrying = sorted(
        (fate for fate in fates if fate.is_worrying), key=lambda fate: (not fate.paused, -fate.dropped_share)
    )
    lines = [line for fate in worrying[:MAX_DESCRIBED] for line in _describe(fate)]
    left = len(worrying) - MAX_DESCRIBED
    return [*lines, f"and {left} more sources"] if left > 0 else lines


def _describe(fate: SourceFate) -> list[str]:
    reasons = sorted(fate.dropped.items(), key=lambda entry: -entry[1])
    words = [f"{fate.source} is paused: {fate.paused}" if fate.paused else ""]
    if reasons:
        why = ", ".join(f"{share:.0%} {reason.replace('_', ' ')}" for reason, share in reasons)
        words.append(f"{'' if fate.paused else f'{fate.source}: '}{why} of its newest groups dropped")
    if fate.all_wrong is not None and fate.all_wrong > 0:
        words.append(f"{fate.all_wrong:.0%} all wrong")
    line = "; ".join(word for word in words if word)
    if not fate.answer and not fate.truth:
        return [line]
    return [line, f"  answered {_shorten(fate.answer)}, wanted {_shorten(fate.truth)}"]


def _shorten(text: str) -> str:
    """A text in one line of bounded length, in quotes; of a long one its end, where the answer is."""
    words = " ".join(text.split())
    return f'"{words}"' if len(words) <= MAX_TEXT else f'"... {words[-MAX_TEXT:]}"'

"""How the mix of sources changed the run's mean, whatever became of each of them."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from tristream.monitoring.queries.why.facts import Group, Window

LEAST_SHIFT = 0.15
"""Share of the rollouts that go to other sources from which a mix stands out whatever it did."""
SHIFT_ERRORS = 4.0

Shares = Mapping[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceMix:
    """What the mix did, and what a source's change counts in the whole."""

    delta: float
    error: float
    left_out: Mapping[str, float]
    """What rollouts without a reward did to the mix, by the source whose coverage changed most; empty if none did."""
    weights: Shares
    """Of each source's own change."""
    is_seen: bool
    is_grave: bool
    detail: str


def compare_mix(groups: Sequence[Group], window: Window) -> SourceMix:
    """Split the difference of two means of sources: ``sum dp r + sum p dr``, with means over both sides as p and r.

    That is Kitagawa's decomposition (1955, Components of a difference between two rates, JASA 50:1168); p is a source's
    share of all judged rollouts, r its mean reward. A source that is on one side alone has one r, so that no dr is due
    to it. Of dp, what the shares of all rollouts, judged or not, do not show is due to those that are left out. The
    error is that of drawing the sources of so many groups by chance.
    """
    halves = tuple([g for g in groups if window.is_after(g.step) is after] for after in (False, True))
    judged = [_shares(half, lambda group: len(group.rewards)) for half in halves]
    asked = [_shares(half, lambda group: group.num_rollouts) for half in halves]
    names = sorted({*asked[0], *asked[1]})
    usual = _usual_rewards(halves, names)
    weights = {name: _mean([side.get(name, 0.0) for side in judged]) for name in names}
    centre = sum(weights[name] * usual[name] for name in names)
    moved = {name: asked[1].get(name, 0.0) - asked[0].get(name, 0.0) for name in names}
    moved_judged = {name: judged[1].get(name, 0.0) - judged[0].get(name, 0.0) for name in names}
    delta = sum(moved[name] * (usual[name] - centre) for name in names)
    whole = sum(moved_judged[name] * (usual[name] - centre) for name in names)
    spread = sum(weights[name] * (usual[name] - centre) ** 2 for name in names)
    draws = sum(1 / max(1, len(half)) for half in halves)
    largest = max(names, key=lambda name: abs(moved[name]))
    chance = SHIFT_ERRORS * math.sqrt(weights[largest] * (1 - weights[largest]) * draws)
    is_seen = abs(moved[largest]) >= max(0.05, chance)
    return SourceMix(
        delta=delta, error=math.sqrt(spread * draws), left_out=_left_out(halves, names, whole - delta), weights=weights,
        is_seen=is_seen, is_grave=is_seen and sum(map(abs, moved.values())) / 2 >= LEAST_SHIFT,
        detail=", ".join(
            f"{name} {asked[0].get(name, 0.0):.0%} -> {asked[1].get(name, 0.0):.0%}"
            for name in sorted(names, key=lambda name: -abs(moved[name]))[:4]
        ),
    )  # fmt: skip


def _shares(groups: Sequence[Group], count: Callable[[Group], int]) -> dict[str, float]:
    counts: dict[str, int] = {}
    for group in groups:
        counts[group.source] = counts.get(group.source, 0) + count(group)
    total = max(1, sum(counts.values()))
    return {name: number / total for name, number in counts.items()}


def _usual_rewards(halves: Sequence[Sequence[Group]], names: Sequence[str]) -> dict[str, float]:
    """Mean reward of each source, over the sides where it has one."""
    usual = {}
    for name in names:
        rewards = [[worth for group in half if group.source == name for worth in group.rewards] for half in halves]
        usual[name] = _mean([_mean(side) for side in rewards if side])
    return usual


def _left_out(halves: Sequence[Sequence[Group]], names: Sequence[str], delta: float) -> dict[str, float]:
    """The delta, by the source whose coverage changed most."""

    def coverage(half: Sequence[Group], name: str) -> float:
        of_source = [group for group in half if group.source == name]
        return sum(len(g.rewards) for g in of_source) / max(1, sum(g.num_rollouts for g in of_source))

    changes = {name: abs(coverage(halves[1], name) - coverage(halves[0], name)) for name in names}
    worst = max(names, key=lambda name: changes[name])
    return {worst: delta} if changes[worst] else {}


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0

"""Rollouts of the same sample before and after, to be looked at side by side."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from tristream.monitoring.queries.rollout_details import read_details
from tristream.monitoring.queries.why.facts import Answer, Group, Surroundings
from tristream.monitoring.store.client import Client

Pair = tuple[str, Answer, Answer]
"""Sample, answer before, answer after."""


def choose_pairs(surroundings: Surroundings, source: str, sign: float, count: int) -> list[Pair]:
    """Pairs of samples that have answers on both sides, first those that moved most the way that ``sign`` says.

    Each answer is the one whose reward is nearest to the mean of its group.
    """
    groups = {group.number: group for group in surroundings.groups}
    sides: dict[tuple[str, str], tuple[list[Answer], list[Answer]]] = defaultdict(lambda: ([], []))
    for answer in surroundings.answers:
        if answer.reward is not None and source in ("", answer.source):
            sides[answer.source, groups[answer.number].sample_id][answer.is_after].append(answer)
    pairs = [
        (sample, _typical(before, groups), _typical(after, groups))
        for (_, sample), (before, after) in sides.items()
        if before and after
    ]
    pairs.sort(key=lambda pair: (-sign * (_mean(pair[2], groups) - _mean(pair[1], groups)), pair[1].number))
    return pairs[:count]


def _mean(answer: Answer, groups: Mapping[int, Group]) -> float:
    return groups[answer.number].mean


def _typical(answers: Sequence[Answer], groups: Mapping[int, Group]) -> Answer:
    newest = max(answer.number for answer in answers)
    of_group = [answer for answer in answers if answer.number == newest]
    return min(of_group, key=lambda answer: (abs((answer.reward or 0.0) - groups[newest].mean), answer.index))


def read_pairs(client: Client, run: str, pairs: Sequence[Pair]) -> list[dict[str, Any]]:
    """The pairs with texts, verdicts and boxes; each rollout as the page shows rollouts."""
    keys = {answer.key: ("train", 0, 0, *answer.key) for _, *both in pairs for answer in both}
    details = read_details(client, run, list(keys.values()))
    shown = {(row["number"], row["rollout_index"]): row for row in details}
    return [
        {"sample_id": sample, "before": shown[before.key], "after": shown[after.key]}
        for sample, before, after in pairs
        if before.key in shown and after.key in shown
    ]

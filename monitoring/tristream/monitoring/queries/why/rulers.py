"""How answers are measured, before and after: thresholds, verifier versions and weights, and a reward under others.

All answers are measured once more by one ruler, the old or the new one, whichever more of them have verdicts for: a
shadow's verdict, or detection's recorded metrics. What that changes is the ruler's doing and not the policy's.
"""

import math
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import TypeVar

from tristream.monitoring.queries.why.facts import Answer, Verdict
from tristream.monitoring.queries.why.thresholds import accuracy_at

ValueT = TypeVar("ValueT")

LEAST_SHARE = 0.05
"""Share of a window's answers that something must concern to be what was usual there."""
SAME = 1e-6
"""Rewards that differ by less are the same: those of the log are doubles, recomputed ones are rounded otherwise."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ruler:
    """What is usual in a window, by term or by ``term_id.component``."""

    thresholds: Mapping[str, float]
    versions: Mapping[str, tuple[str, str]]
    """Verifier and version."""
    weights: Mapping[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class RulerChange:
    """Where two rulers differ, in one of its parts."""

    kind: str
    """``threshold``, ``verifier`` or ``weights``."""
    old: Mapping[str, object]
    new: Mapping[str, object]


def find_ruler(answers: Collection[Answer]) -> Ruler:
    """The most usual threshold, version and weights of each term."""
    thresholds: dict[str, Counter[float]] = {}
    versions: dict[str, Counter[tuple[str, str]]] = {}
    weights: dict[str, Counter[float]] = {}
    for answer in answers:
        for name, weight in answer.weights.items():
            weights.setdefault(name, Counter())[weight] += 1
        for verdict in answer.counted_verdicts:
            versions.setdefault(verdict.term_id, Counter())[verdict.verifier, verdict.version] += 1
            if verdict.threshold is not None:
                thresholds.setdefault(verdict.term_id, Counter())[verdict.threshold] += 1
    least = LEAST_SHARE * len(answers)
    return Ruler(thresholds=_usual(thresholds, least), versions=_usual(versions, least), weights=_usual(weights, least))


def _usual(counters: Mapping[str, Counter[ValueT]], least: float) -> dict[str, ValueT]:
    return {name: counter.most_common(1)[0][0] for name, counter in counters.items() if counter.total() >= least}


def compare_rulers(old: Ruler, new: Ruler) -> list[RulerChange]:
    """The parts in which they differ. A term that only one of them has is a verifier's coming or going."""
    thresholds = [name for name in old.thresholds.keys() & new.thresholds if _differ(old, new, "thresholds", name)]
    terms = {name.rpartition(".")[0] for name in old.weights}, {name.rpartition(".")[0] for name in new.weights}
    alone = terms[0] ^ terms[1]
    versions = [name for name in old.versions.keys() & new.versions if _differ(old, new, "versions", name)]
    weights = [
        name
        for name in sorted(old.weights.keys() | new.weights.keys())
        if name.rpartition(".")[0] not in alone and _differ(old, new, "weights", name)
    ]
    found = [
        _change("threshold", thresholds, old.thresholds, new.thresholds),
        _change("verifier", [*versions, *sorted(alone)], old.versions, new.versions),
        _change("weights", weights, old.weights, new.weights),
    ]
    return [change for change in found if change.old or change.new]


def _differ(old: Ruler, new: Ruler, part: str, name: str) -> bool:
    return bool(getattr(old, part).get(name) != getattr(new, part).get(name))


def _change(kind: str, names: Iterable[str], old: Mapping[str, object], new: Mapping[str, object]) -> RulerChange:
    names = list(names)
    return RulerChange(
        kind=kind,
        old={name: old[name] for name in names if name in old},
        new={name: new[name] for name in names if name in new},
    )


def reward_under(answer: Answer, kinds: Collection[str], target: Ruler, other: Ruler) -> float | None:
    """What an answer is worth with some parts of the other ruler replaced by those of the target; None if nobody knows.

    ``sum(w * c) / sum(|w|)`` over the components that count, as the assembler does it.
    """
    if answer.reward is None:
        return None
    weights, versions = dict(answer.weights), dict(answer.versions)
    if "weights" in kinds:
        weights = _replace_weights(weights, target, other)
    if "verifier" in kinds:
        weights, versions = _replace_verifiers(answer, weights, target, other)
    said = {(verdict.verifier, verdict.version): verdict for verdict in answer.verdicts}
    own = {(verdict.term_id, verdict.version): verdict for verdict in answer.verdicts}
    components: dict[str, Mapping[str, float] | None] = {}
    for term in {name.rpartition(".")[0] for name in weights}:
        verifier = target.versions.get(term, ("", ""))[0]
        verdict = own.get((term, versions.get(term, ""))) or said.get((verifier, versions.get(term, "")))
        if verdict is not None and "threshold" in kinds:
            verdict = _at_threshold(verdict, target.thresholds.get(term))
        if verdict is None:
            return None
        components[term] = verdict.components if verdict.status == "scored" or verdict.components else None
    return combine(answer, weights, components)


def combine(
    answer: Answer, weights: Mapping[str, float], components: Mapping[str, Mapping[str, float] | None]
) -> float | None:
    """The weighted mean, or sum; a term without a score counts 0 if the sample says so, else there is no reward."""
    total = total_weight = 0.0
    for name, weight in weights.items():
        term, _, component = name.rpartition(".")
        values = components[term]
        if values is None and answer.on_unscored != "zero":
            return None
        if values is not None and component not in values:
            continue  # the verifier abstains
        total += weight * (values or {}).get(component, 0.0)
        total_weight += abs(weight)
    if answer.combine == "sum":
        return total
    return total / total_weight if total_weight else None


def _replace_weights(weights: dict[str, float], target: Ruler, other: Ruler) -> dict[str, float]:
    terms = {name.rpartition(".")[0] for name in weights}
    changed = {
        name: target.weights.get(name, 0.0)
        for name in target.weights.keys() | other.weights.keys()
        if name.rpartition(".")[0] in terms and weights.get(name, 0.0) == other.weights.get(name, 0.0)
    }
    return {name: weight for name, weight in {**weights, **changed}.items() if weight}


def _replace_verifiers(
    answer: Answer, weights: dict[str, float], target: Ruler, other: Ruler
) -> tuple[dict[str, float], dict[str, str]]:
    """Weights without terms that only the other ruler has and with those that only the target has, and versions."""
    terms = {name.rpartition(".")[0] for name in weights}
    ours, theirs = ({name.rpartition(".")[0] for name in ruler.weights} for ruler in (target, other))
    is_old = bool(terms & (theirs - ours)) or not (ours - theirs) <= terms
    kept = {n: w for n, w in weights.items() if not is_old or n.rpartition(".")[0] not in theirs - ours}
    added = {n: w for n, w in target.weights.items() if is_old and n.rpartition(".")[0] in ours - theirs - terms}
    versions = {
        term: target.versions[term][1]
        if term in target.versions and version == other.versions.get(term, ("", ""))[1]
        else version
        for term, version in answer.versions.items()
    }
    versions |= {n.rpartition(".")[0]: target.versions.get(n.rpartition(".")[0], ("", ""))[1] for n in added}
    return {**kept, **added}, versions


def _at_threshold(verdict: Verdict, threshold: float | None) -> Verdict | None:
    if threshold is None or verdict.threshold is None or verdict.status != "scored":
        return verdict
    accuracy = accuracy_at(verdict, threshold)
    if accuracy is None:
        return None
    return replace(verdict, components={**verdict.components, "accuracy": accuracy}, threshold=threshold)


@dataclass(frozen=True, slots=True, kw_only=True)
class RulerEffects:
    """What the change of rulers did, and the rewards of all answers by one ruler."""

    changes: Sequence[RulerChange]
    effects: Mapping[str, float]
    """By kind, of the difference of the means after and before."""
    errors: Mapping[str, float]
    rewards: Mapping[tuple[int, int], float]
    """By one ruler."""
    is_by_old: bool
    share_known: float
    """Share of the answers that can be measured by that ruler."""


def measure_rulers(before: Sequence[Answer], after: Sequence[Answer]) -> RulerEffects:
    """Measure all answers by one ruler, and share out what that changes.

    With ``v(S)`` the change of the difference of means when the parts S of the ruler are replaced, a part has its
    Shapley value, the mean of what it adds over all orders (Shapley 1953; for decompositions Shorrocks 2013).
    """
    old, new = find_ruler(before), find_ruler(after)
    changes = compare_rulers(old, new)
    kinds = [change.kind for change in changes]
    own = {answer.key: answer.reward for answer in (*before, *after) if answer.reward is not None}
    if not changes:
        return RulerEffects(changes=(), effects={}, errors={}, rewards=own, is_by_old=True, share_known=1.0)
    ways = [(old, new), (new, old)]
    trials = [_rewards(before, after, kinds, *way) for way in ways]
    is_by_old = len(trials[0]) >= len(trials[1])
    target, other = ways[0 if is_by_old else 1]
    whole = trials[0 if is_by_old else 1]
    moves = {(): {}, tuple(kinds): _moves(own, whole)}
    for size in range(1, len(kinds)):
        for some in combinations(kinds, size):
            moves[some] = _moves(own, _rewards(before, after, some, target, other))
    values = {some: _gap(before, after, moved) for some, moved in moves.items()}
    shift = {side: _mean(moves[tuple(kinds)], answers) for side, answers in ((False, before), (True, after))}
    sides = {answer.key: answer.is_after for answer in (*before, *after)}
    error = _standard_error(before, moves[tuple(kinds)]) + _standard_error(after, moves[tuple(kinds)])
    return RulerEffects(
        changes=changes,
        effects=shapley(kinds, values),
        errors=dict.fromkeys(kinds, math.sqrt(error)),
        rewards={key: whole.get(key, reward - shift[sides[key]]) for key, reward in own.items()},
        is_by_old=is_by_old,
        share_known=len(whole) / max(1, len(own)),
    )


def shapley(players: Sequence[str], values: Mapping[tuple[str, ...], float]) -> dict[str, float]:
    """Shapley values: ``sum over S without i of |S|! (n - |S| - 1)! / n! (v(S + i) - v(S))`` (Shapley 1953).

    Args:
        players: their names, in an order.
        values: of each set of players, in that order.

    Example:
        >>> shapley(["a", "b"], {(): 0.0, ("a",): 1.0, ("b",): 0.0, ("a", "b"): 2.0})
        {'a': 1.5, 'b': 0.5}
    """
    count = len(players)
    result = {}
    for player in players:
        others = [name for name in players if name != player]
        total = 0.0
        for size in range(count):
            weight = math.factorial(size) * math.factorial(count - size - 1) / math.factorial(count)
            for some in combinations(others, size):
                joined = tuple(name for name in players if name in some or name == player)
                total += weight * (values[joined] - values[some])
        result[player] = total
    return result


def _rewards(
    before: Sequence[Answer], after: Sequence[Answer], kinds: Collection[str], target: Ruler, other: Ruler
) -> dict[tuple[int, int], float]:
    """Rewards under the target's parts, of answers whose own reward is what their verdicts come to."""
    found = {}
    for answer in (*before, *after):
        same, there = reward_under(answer, (), target, other), reward_under(answer, kinds, target, other)
        if answer.reward is not None and same is not None and there is not None and abs(same - answer.reward) < SAME:
            found[answer.key] = there
    return found


def _moves(
    own: Mapping[tuple[int, int], float], there: Mapping[tuple[int, int], float]
) -> dict[tuple[int, int], float]:
    return {key: own[key] - reward for key, reward in there.items()}


def _mean(moves: Mapping[tuple[int, int], float], answers: Iterable[Answer]) -> float:
    known = [moves[answer.key] for answer in answers if answer.key in moves]
    return sum(known) / len(known) if known else 0.0


def _gap(before: Sequence[Answer], after: Sequence[Answer], moves: Mapping[tuple[int, int], float]) -> float:
    return _mean(moves, after) - _mean(moves, before)


def _standard_error(answers: Sequence[Answer], moves: Mapping[tuple[int, int], float]) -> float:
    """Squared standard error of the mean move, by groups: answers of one prompt are alike."""
    sums: dict[int, list[float]] = {}
    for answer in answers:
        if answer.key in moves:
            sums.setdefault(answer.number, []).append(moves[answer.key])
    total = sum(map(len, sums.values()))
    if len(sums) < 2:
        return 0.0
    mean = sum(map(sum, sums.values())) / total
    return sum((sum(values) - len(values) * mean) ** 2 for values in sums.values()) / total**2

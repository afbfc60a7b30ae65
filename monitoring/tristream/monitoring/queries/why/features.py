"""What may explain the reward of an answer, as numbers: sample, length, age, producer, whether it was scored."""

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tristream.monitoring.queries.why.facts import Answer, Surroundings

Numbers = NDArray[np.float64]

MOST_AGE = 8
"""Ages above count as this one."""
MOST_PRODUCERS = 6
LEAST_SHARE = 0.03
"""A producer with less of the answers counts with the others."""
NEW_IS_UNUSUAL = 0.5
"""Samples that were never seen are news only where less than this share of those before were."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Features:
    """One row an answer, one column a feature; each column belongs to a cause."""

    values: Numbers
    causes: Sequence[str]
    """Cause of each column."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleFacts:
    """What was known of the sample of a group before the group itself."""

    is_changed: bool
    """Whether its truth was another one when it was last seen."""
    is_new: bool
    difficulty: float | None
    """Mean reward of its groups before the window; None if there was none."""


def know_samples(surroundings: Surroundings, source: str) -> dict[int, SampleFacts]:
    """What was known of each sample of a source's groups in the window, by number of the group."""
    truths: dict[str, int] = {}
    past: dict[str, list[float]] = defaultdict(list)
    changed: set[str] = set()
    found = {}
    groups = [group for group in surroundings.groups if group.source == source]
    for group in sorted(groups, key=lambda group: (group.step, group.number)):
        sample = group.sample_id
        if sample in truths and truths[sample] != group.truth:
            changed.add(sample)
        if surroundings.window.holds(group.step):
            known = past.get(sample, ())
            found[group.number] = SampleFacts(
                is_changed=sample in changed,
                is_new=surroundings.first_seen.get((source, sample), group.number) == group.number,
                difficulty=sum(known) / len(known) if known else None,
            )
        elif group.rewards:
            past[sample].append(group.mean)
        truths.setdefault(sample, group.truth)
        if sample not in changed:
            truths[sample] = group.truth
    return found


def make_features(answers: Sequence[Answer], samples: Mapping[int, SampleFacts]) -> Features:
    """The features of answers of one source; those without variance are left out."""
    columns: list[tuple[str, Sequence[float]]] = [
        ("outage", [float(answer.counts_unscored) for answer in answers]),
        *_sample_columns(answers, samples),
        ("prompts", _standard([math.log1p(answer.num_prompt_tokens) for answer in answers])),
        ("truncation", [float(answer.is_truncated) for answer in answers]),
        ("lengths", _lengths(answers)),
        ("staleness", [float(min(answer.age, MOST_AGE)) for answer in answers]),
        *(("producers", column) for column in _producer_columns(answers)),
    ]
    kept = [(cause, column) for cause, column in columns if max(column) - min(column) > 1e-9]
    values = np.array([column for _, column in kept], dtype=np.float64).T.reshape(len(answers), len(kept))
    return Features(values=values, causes=[cause for cause, _ in kept])


def _sample_columns(answers: Sequence[Answer], samples: Mapping[int, SampleFacts]) -> list[tuple[str, Sequence[float]]]:
    facts = [samples[answer.number] for answer in answers]
    before = [fact.is_new for fact, answer in zip(facts, answers, strict=True) if not answer.is_after]
    columns: list[tuple[str, Sequence[float]]] = [("data", [float(fact.is_changed) for fact in facts])]
    if sum(before) <= NEW_IS_UNUSUAL * len(before):
        columns.append(("data", [float(fact.is_new) for fact in facts]))
    known = [fact.difficulty for fact in facts if fact.difficulty is not None]
    if known:
        mean = sum(known) / len(known)
        columns.append(("samples", [0.0 if f.difficulty is None else f.difficulty - mean for f in facts]))
    return columns


def _lengths(answers: Sequence[Answer]) -> list[float]:
    """Logarithm of the tokens of answers that ended by themselves; others have the mean, and their own feature."""
    whole = [math.log1p(answer.num_tokens) for answer in answers if answer.finish_reason == "stop"]
    mean = sum(whole) / len(whole) if whole else 0.0
    return [math.log1p(a.num_tokens) - mean if a.finish_reason == "stop" else 0.0 for a in answers]


def _producer_columns(answers: Sequence[Answer]) -> list[Sequence[float]]:
    """Whether an answer is of a producer, of each that matters but the first."""
    counts = Counter(answer.producer for answer in answers)
    names = [name for name, count in counts.most_common(MOST_PRODUCERS) if count >= LEAST_SHARE * len(answers)]
    return [[float(answer.producer == name) for answer in answers] for name in names[1:]]


def _standard(values: Sequence[float]) -> list[float]:
    mean = sum(values) / len(values)
    return [value - mean for value in values]

"""Whether something about answers is otherwise after than before: facts beside the effects, in words."""

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean

from tristream.monitoring.queries.why.facts import Answer


@dataclass(frozen=True, slots=True, kw_only=True)
class MeanShift:
    """A mean over answers before and after."""

    before: float
    after: float
    error: float
    """Standard error of the difference, by groups: answers of one prompt are alike."""

    @property
    def size(self) -> float:
        """After minus before."""
        return self.after - self.before

    def is_sure(self, least: float, errors: float = 4.0) -> bool:
        """Whether it is at least ``least`` and so many standard errors."""
        return abs(self.size) >= least and abs(self.size) >= errors * self.error


def mean_shift(before: Sequence[Answer], after: Sequence[Answer], value_of: Callable[[Answer], float]) -> MeanShift:
    """The shift of a mean over answers, of which there are some on both sides."""
    means, errors = [], []
    for answers in (before, after):
        values = [value_of(answer) for answer in answers]
        mean = fmean(values)
        sums: dict[int, float] = defaultdict(float)
        for answer, value in zip(answers, values, strict=True):
            sums[answer.number] += value - mean
        # One more answer that is half-way other keeps a share of exactly 0 from being sure beyond doubt.
        least = 1 / (2 * len(answers)) if set(values) <= {0.0, 1.0} else 0.0
        means.append(mean)
        errors.append(sum(total**2 for total in sums.values()) / len(values) ** 2 + least**2)
    return MeanShift(before=means[0], after=means[1], error=math.sqrt(sum(errors)))


def share_words(shift: MeanShift) -> str:
    """Such as ``3 % -> 41 %``."""
    return f"{shift.before:.1%} -> {shift.after:.1%}"


def number_words(shift: MeanShift, digits: int = 1) -> str:
    """Such as ``0.4 -> 3.8``."""
    return f"{shift.before:.{digits}f} -> {shift.after:.{digits}f}"


def value_words(values: Iterable[object]) -> str:
    """The values there are, the most usual first, such as ``512`` or ``512, 128``."""
    return ", ".join(str(value) for value, _ in Counter(values).most_common(3))


def status_words(answers: Sequence[Answer]) -> str:
    """What verdicts that count said other than a score, by verifier version: ``math@2: 31 timeout of 240``."""
    totals: Counter[str] = Counter()
    broken: Counter[tuple[str, str]] = Counter()
    for answer in answers:
        for verdict in answer.counted_verdicts:
            name = f"{verdict.verifier}@{verdict.version}"
            totals[name] += 1
            if verdict.status != "scored":
                broken[name, verdict.status] += 1
    return "; ".join(f"{name}: {count} {status} of {totals[name]}" for (name, status), count in broken.most_common(4))

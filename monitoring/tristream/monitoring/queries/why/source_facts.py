"""What is otherwise after than before in one source: a cause is named only where such a fact is seen too."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from tristream.monitoring.queries.why.facts import Answer, Group
from tristream.monitoring.queries.why.features import SampleFacts
from tristream.monitoring.queries.why.rulers import RulerChange, RulerEffects
from tristream.monitoring.queries.why.shifts import (
    MeanShift,
    mean_shift,
    number_words,
    share_words,
    status_words,
    value_words,
)

LEAST_COVERAGE, LEAST_UNSCORED, LEAST_DATA = 0.10, 0.05, 0.05
"""Shares of answers that stand out by themselves, whatever they did to the reward."""
FEW_SAMPLES = 3.0
"""Standard errors from which a shift of the samples is sure: all answers of a group have one."""
LEAST_TRUNCATED = 0.03
LEAST_PRODUCER = 0.10


@dataclass(frozen=True, slots=True, kw_only=True)
class Halves:
    """Answers and groups of one source, before and after."""

    before: Sequence[Answer]
    after: Sequence[Answer]
    """Of all that were asked for, failed ones too."""
    groups_before: Sequence[Group]
    groups_after: Sequence[Group]
    samples: Mapping[int, SampleFacts]


@dataclass(frozen=True, slots=True, kw_only=True)
class Fact:
    """What is otherwise, in words."""

    detail: str
    is_seen: bool
    """Whether it is surely so."""
    is_grave: bool = False
    """Whether it stands out whatever it did to the reward."""
    is_setting: bool = False
    """Whether somebody set it otherwise, so that the policy has not made it so."""
    evidence: Sequence[str] = ()


def find_facts(halves: Halves, rulers: RulerEffects) -> dict[str, Fact]:
    """The facts of a source, by cause."""
    finders: dict[str, Callable[[Halves], Fact]] = {
        "outage": _outage,
        "coverage": _coverage,
        "data": _data,
        "samples": _samples,
        "prompts": _prompts,
        "truncation": _truncation,
        "lengths": _lengths,
        "staleness": _staleness,
        "producers": _producers,
    }
    found = {kind: finder(halves) for kind, finder in finders.items()}
    return found | {change.kind: _ruler(change, rulers) for change in rulers.changes}


def _shift(halves: Halves, value_of: Callable[[Answer], float]) -> MeanShift:
    return mean_shift(halves.before, halves.after, value_of)


def _ruler(change: RulerChange, rulers: RulerEffects) -> Fact:
    way = "new answers by the old" if rulers.is_by_old else "old answers by the new"
    how = "detection's recorded metrics" if change.kind == "threshold" else "verdicts of both, such as a shadow's"
    return Fact(
        detail="; ".join(_moved(name, change) for name in sorted(change.old.keys() | change.new.keys())),
        is_seen=True,
        is_grave=True,
        is_setting=True,
        evidence=[f"{way}: {rulers.share_known:.0%} can be measured again, by {how}"],
    )


def _moved(name: str, change: RulerChange) -> str:
    def words(value: object) -> str:
        return "nothing" if value is None else "@".join(value) if isinstance(value, tuple) else str(value)

    return f"{name} {words(change.old.get(name))} -> {words(change.new.get(name))}"


def _outage(halves: Halves) -> Fact:
    shift = _shift(halves, lambda answer: float(answer.counts_unscored))
    is_seen = shift.is_sure(LEAST_UNSCORED)
    return Fact(
        detail=f"answers without a score, which count {share_words(shift)}",
        is_seen=is_seen,
        is_grave=is_seen,
        is_setting=True,
        evidence=[words for words in (status_words(halves.after),) if words],
    )


def _coverage(halves: Halves) -> Fact:
    shift = _shift(halves, lambda answer: float(answer.reward is None))
    is_seen = shift.is_sure(LEAST_COVERAGE)
    failed = _shift(halves, lambda answer: float(answer.has_failed))
    evidence = [f"failed to generate {share_words(failed)}"] if failed.is_sure(0.02) else []
    return Fact(
        detail=f"answers without a reward, left out of the mean {share_words(shift)}",
        is_seen=is_seen,
        is_grave=is_seen,
        is_setting=True,
        evidence=[*evidence, *(words for words in (status_words(halves.after),) if words)],
    )


def _data(halves: Halves) -> Fact:
    changed = _shift(halves, lambda answer: float(halves.samples[answer.number].is_changed))
    new = _shift(halves, lambda answer: float(halves.samples[answer.number].is_new))
    are_new = new.before <= 0.5 and new.size > 0 and new.is_sure(LEAST_DATA, FEW_SAMPLES)
    is_seen = changed.is_sure(LEAST_DATA, FEW_SAMPLES) or are_new
    prints = [{group.fingerprint for group in groups} for groups in (halves.groups_before, halves.groups_after)]
    return Fact(
        detail=f"answers to samples whose truth changed {share_words(changed)}, never seen before {share_words(new)}",
        is_seen=is_seen,
        is_grave=is_seen,
        is_setting=True,
        evidence=["run file or data are others by their fingerprint"] if prints[1] - prints[0] else [],
    )


def _samples(halves: Halves) -> Fact:
    def known(answers: Sequence[Answer]) -> list[Answer]:
        return [answer for answer in answers if halves.samples[answer.number].difficulty is not None]

    before, after = known(halves.before), known(halves.after)
    if not before or not after:
        return Fact(detail="no sample was seen before", is_seen=False)
    shift = mean_shift(before, after, lambda answer: halves.samples[answer.number].difficulty or 0.0)
    return Fact(
        detail=f"mean past reward of the samples {number_words(shift, 2)}",
        is_seen=shift.is_sure(0.03, FEW_SAMPLES),
        is_setting=True,
    )


def _prompts(halves: Halves) -> Fact:
    shift = _shift(halves, lambda answer: float(answer.num_prompt_tokens))
    return Fact(
        detail=f"mean tokens of a prompt {number_words(shift)}",
        is_seen=shift.is_sure(0.1 * max(1.0, shift.before)),
        is_setting=True,
    )


def _truncation(halves: Halves) -> Fact:
    shift = _shift(halves, lambda answer: float(answer.is_truncated))
    limits = [{group.max_tokens for group in groups} for groups in (halves.groups_before, halves.groups_after)]
    is_set = limits[0] != limits[1]
    words = f", max_tokens {value_words(limits[0])} -> {value_words(limits[1])}" if is_set else ""
    return Fact(
        detail=f"answers cut off at max_tokens {share_words(shift)}{words}",
        is_seen=shift.is_sure(LEAST_TRUNCATED),
        is_setting=is_set,
        evidence=_reward_gap(halves.after),
    )


def _reward_gap(answers: Sequence[Answer]) -> list[str]:
    sides = [[a.reward for a in answers if a.reward is not None and a.is_truncated is cut] for cut in (True, False)]
    if not all(sides):
        return []
    return [f"reward of those cut off {fmean(sides[0]):.3f}, of the others {fmean(sides[1]):.3f}"]


def _lengths(halves: Halves) -> Fact:
    whole = [[answer for answer in half if answer.finish_reason == "stop"] for half in (halves.before, halves.after)]
    if not all(whole):
        return Fact(detail="no answer ended by itself", is_seen=False)
    shift = mean_shift(whole[0], whole[1], lambda answer: float(answer.num_tokens))
    return Fact(
        detail=f"mean tokens of answers that ended by themselves {number_words(shift)}",
        is_seen=shift.is_sure(0.15 * max(1.0, shift.before)),
    )


def _staleness(halves: Halves) -> Fact:
    shift = _shift(halves, lambda answer: float(answer.age))
    return Fact(
        detail=f"mean age in policy versions {number_words(shift)}", is_seen=shift.is_sure(0.5), is_setting=True
    )


def _producers(halves: Halves) -> Fact:
    names = {answer.producer for answer in (*halves.before, *halves.after)}
    shifts = {name: _shift(halves, lambda answer, name=name: float(answer.producer == name)) for name in names}  # type: ignore[misc]
    moved = sorted(shifts, key=lambda name: -abs(shifts[name].size))[:3]
    return Fact(
        detail="answers by producer: " + ", ".join(f"{name} {share_words(shifts[name])}" for name in moved),
        is_seen=any(shift.is_sure(LEAST_PRODUCER) for shift in shifts.values()),
        is_setting=True,
    )

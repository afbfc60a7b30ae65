"""Causes of sources and of the whole run, ranked: what stands out first, the largest effect first."""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from tristream.monitoring.queries.why.explanation import QUIET, Cause, Change
from tristream.monitoring.queries.why.signals import Signal
from tristream.monitoring.queries.why.source_finding import Effect, SourceFinding, is_beyond_noise
from tristream.monitoring.queries.why.source_mix import SourceMix

TITLES: Mapping[str, str] = {
    "threshold": "threshold moved",
    "verifier": "verifier changed",
    "weights": "reward weights changed",
    "outage": "unscored answers count as wrong",
    "coverage": "answers left out",
    "data": "other data",
    "samples": "easier or harder samples",
    "prompts": "length of prompts",
    "truncation": "truncation",
    "lengths": "length of answers",
    "staleness": "stale rollouts",
    "producers": "producers",
    "mix": "mix of sources",
    "policy": "the policy itself",
}
SHOWN_BY_POLICIES = ("truncation", "lengths")
"""What a changed policy does to its answers: part of what changed the policy, where nobody set it."""
LEFT_ERRORS, SIGNAL_ERRORS = 4.0, 2.5
LEAST_LEFT = 0.03
"""What is left stands out by so many standard errors beyond the trend, fewer where the learner's numbers shift at the
same step, and at least so much."""
MAX_NAMED = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class _Left:
    """What is left for the policy, over all sources by their weights."""

    beyond: float
    """Beyond the trend before the step."""
    drift: float
    error: float
    is_sure: bool
    is_likely: bool
    """Whether it is sure enough together with a shift of the learner's numbers."""


def rank_causes(
    findings: Sequence[SourceFinding], weights: Mapping[str, float], mix: SourceMix | None, signals: Sequence[Signal]
) -> list[Cause]:
    """All causes with what they did to the mean over the sources, ranked.

    Args:
        findings: of each source.
        weights: what the change of each source counts in the whole.
        mix: what the mix of sources did, if there are several.
        signals: of the learner, drivers first.
    """
    drivers = [signal for signal in signals if signal.is_driver]
    causes, absorbed = _causes_of_sources(findings, weights, drivers)
    if mix is not None:
        causes = _with_left_out(causes, mix)
        is_sure = mix.is_seen and is_beyond_noise(mix.delta, mix.error, 3.0, 0.01)
        causes.append(
            Cause(kind="mix", source="", title=TITLES["mix"], share=0.0, delta=mix.delta, error=mix.error,
                  stands_out=is_sure or mix.is_grave, detail=mix.detail)
        )  # fmt: skip
    causes += _causes_of_policy(_what_is_left(findings, weights), signals, drivers, absorbed)
    causes = merge_sources(causes)
    total = sum(abs(cause.delta) for cause in causes) or 1.0
    causes = [replace(cause, share=abs(cause.delta) / total) for cause in causes]
    return sorted(causes, key=_rank)


def _rank(cause: Cause) -> tuple[bool, bool, float]:
    """What stands out comes first, among it what moved the reward beyond noise, and then by size."""
    return not cause.stands_out, abs(cause.delta) <= 2 * cause.error, -abs(cause.delta)


def _causes_of_sources(
    findings: Sequence[SourceFinding], weights: Mapping[str, float], drivers: Sequence[Signal]
) -> tuple[list[Cause], dict[str, float]]:
    """Causes by source, and the effects that belong to what changed the policy, added up by kind."""
    causes, absorbed = [], defaultdict[str, float](float)
    kinds_of_drivers = {driver.kind for driver in drivers}
    for finding in findings:
        weight = weights[finding.source]
        for effect in finding.effects:
            is_shown = effect.kind in SHOWN_BY_POLICIES and not effect.fact.is_setting
            if effect.kind in kinds_of_drivers or (drivers and is_shown):
                absorbed[effect.kind] += weight * effect.delta
            else:
                causes.append(_cause_of(effect, finding.source, weight))
    return causes, absorbed


def _with_left_out(causes: Sequence[Cause], mix: SourceMix) -> list[Cause]:
    """Rollouts that are left out change the mix of sources too; a source of which all are has no other cause."""
    result = []
    open_sources = dict(mix.left_out)
    for cause in causes:
        delta = open_sources.pop(cause.source, 0.0) if cause.kind == "coverage" else 0.0
        result.append(replace(cause, delta=cause.delta + delta))
    return result + [
        Cause(kind="coverage", source=source, title=TITLES["coverage"], share=0.0, delta=delta, error=mix.error,
              stands_out=True, detail="it has rewards on one side alone")
        for source, delta in open_sources.items()
    ]  # fmt: skip


def merge_sources(causes: Sequence[Cause]) -> list[Cause]:
    """Causes of which one kind stands out in several sources, and moves them the same way, as one."""
    alike: dict[tuple[str, bool], list[Cause]] = defaultdict(list)
    for cause in causes:
        if cause.stands_out and cause.source:
            alike[cause.kind, cause.delta < 0].append(cause)
    merged = [_merge(some) for some in alike.values() if len(some) > 1]
    single = [
        cause for cause in causes if len(alike.get((cause.kind, cause.delta < 0), ())) < 2 or not cause.stands_out
    ]
    return [*merged, *single]


def _merge(causes: Sequence[Cause]) -> Cause:
    ordered = sorted(causes, key=lambda cause: -abs(cause.delta))
    return replace(
        ordered[0], source="", delta=sum(cause.delta for cause in causes),
        error=math.sqrt(sum(cause.error**2 for cause in causes)),
        detail=f"{ordered[0].source}: {ordered[0].detail}, and in {', '.join(cause.source for cause in ordered[1:])}",
        evidence=[f"{cause.source} {cause.delta:+.3f}: {cause.detail}" for cause in ordered],
    )  # fmt: skip


def _cause_of(effect: Effect, source: str, weight: float) -> Cause:
    return Cause(
        kind=effect.kind, source=source, title=TITLES[effect.kind], share=0.0, delta=weight * effect.delta,
        error=weight * effect.error, stands_out=effect.is_sure or effect.fact.is_grave, detail=effect.fact.detail,
        evidence=effect.fact.evidence,
    )  # fmt: skip


def _what_is_left(findings: Sequence[SourceFinding], weights: Mapping[str, float]) -> _Left:
    def is_far(errors: float) -> bool:
        own = [(finding.left - finding.drift, finding.left_error) for finding in findings]
        return any(is_beyond_noise(*one, errors, LEAST_LEFT) for one in [(beyond, error), *own])

    beyond = sum(weights[finding.source] * (finding.left - finding.drift) for finding in findings)
    error = math.sqrt(sum((weights[finding.source] * finding.left_error) ** 2 for finding in findings))
    return _Left(
        beyond=beyond,
        drift=sum(weights[finding.source] * finding.drift for finding in findings),
        error=error,
        is_sure=is_far(LEFT_ERRORS),
        is_likely=is_far(SIGNAL_ERRORS),
    )


def _causes_of_policy(
    left: _Left, signals: Sequence[Signal], drivers: Sequence[Signal], absorbed: Mapping[str, float]
) -> list[Cause]:
    """What is left, by what changed the policy where the learner tells; several at once cannot be told apart."""
    named = list(drivers) or (list(signals[:1]) if left.is_likely else [])
    others = [f"{signal.title}: {signal.detail}" for signal in signals if signal not in named]
    if not named:
        words = f"{left.drift:+.3f} as the trend before goes on, {left.beyond:+.3f} beyond it"
        return [
            Cause(kind="policy", source="", title=TITLES["policy"], share=0.0, delta=left.beyond + left.drift,
                  error=left.error, stands_out=left.is_sure, detail=words, evidence=others)
        ]  # fmt: skip
    trend = Cause(kind="policy", source="", title=TITLES["policy"], share=0.0, delta=left.drift, error=left.error,
                  stands_out=False, detail="as the trend before goes on")  # fmt: skip
    return [*_causes_of_signals(left, named, absorbed, others), trend]


def _causes_of_signals(
    left: _Left, named: Sequence[Signal], absorbed: Mapping[str, float], others: Sequence[str]
) -> list[Cause]:
    """Signals with what is left beyond the trend, in equal parts, and with what belongs to them."""
    own = {signal.kind: absorbed.get(signal.kind, 0.0) for signal in named}
    through = {TITLES[kind]: delta for kind, delta in absorbed.items() if kind not in own and abs(delta) >= 0.001}
    shared = (left.beyond + sum(absorbed.values()) - sum(own.values())) / len(named)
    evidence = [*(f"through {title} {delta:+.3f}" for title, delta in through.items()), *others]
    if len(named) > 1:
        titles = " and ".join(signal.title for signal in named)
        evidence.append(f"{titles} came at once, so that each has an equal part of what is left")
    return [
        Cause(kind=signal.kind, source="", title=signal.title, share=0.0, delta=shared + own[signal.kind],
              error=left.error, stands_out=True, detail=signal.detail, evidence=evidence)
        for signal in named
    ]  # fmt: skip


def make_verdict(change: Change, causes: Sequence[Cause]) -> str:
    """What stands out, in a line."""
    named = [cause for cause in causes if cause.stands_out][:MAX_NAMED]
    moved = f"reward {change.before:.3f} -> {change.after:.3f}"
    if not named:
        return f"{QUIET}: {moved}, {change.delta:+.3f} with a standard error of {change.error:.3f}"
    return f"{moved}: " + "; ".join(_in_words(cause) for cause in named)


def _in_words(cause: Cause) -> str:
    where = f" in {cause.source}" if cause.source else ""
    return f"{cause.title}{where} {cause.delta:+.3f} ({cause.detail})"

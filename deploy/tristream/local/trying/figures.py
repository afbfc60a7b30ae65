"""What the groups of a source come to, in numbers; pure."""

import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from tristream.local.trying.judged_groups import GroupKind, JudgedAnswer, JudgedGroup, TermVerdict
from tristream.wire.events import FinishReason, RewardTerm, Status

MARKS = {"boxed": (r"\boxed{...}", r"\boxed{"), "tags": ("<answer>...</answer>", "<answer>")}
"""How people write the place where a verifier looks for the answer, and what begins it, by ``answer_in``."""
TAGGED_VERIFIERS = ("detection",)
"""They look between answer tags, without a parameter that says so."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ComponentFigures:
    """One component of the reward over all answers that have it."""

    weight: float
    """Of the first row that has it."""
    mean: float
    lowest: float
    highest: float
    num_answers: int


@dataclass(frozen=True, slots=True, kw_only=True)
class UnscoredFigures:
    """Verdicts that are no scores."""

    num_verdicts: int
    reason: str
    """Of the first one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceFigures:
    """The groups of one source."""

    source: str
    num_groups: int
    group_size: int
    groups: Mapping[GroupKind, int]
    """How many are of each kind."""
    num_answers: int
    num_failed: int
    """Of the answers, those that could not be generated."""
    failure: str
    """Why the first of them could not."""
    num_rewarded: int
    """Answers with a reward."""
    reward_mean: float | None
    reward_lowest: float | None
    reward_highest: float | None
    components: Mapping[str, ComponentFigures]
    """Those that count, by name; of two terms with a component of one name as ``TERM.NAME``."""
    metrics: Mapping[str, float]
    """Means by name."""
    num_verdicts: int
    """Of the terms that count."""
    unscored: Mapping[Status, UnscoredFigures]
    """Those of them that are no scores, by status."""
    mark: str
    """What marks the place where the verifier looks for an answer; empty if it looks anywhere."""
    answer_in: str
    """The verifier's parameter that says so; empty if it has none."""
    num_with_mark: int
    num_boxed: int
    r"""Answers with a ``\boxed{``, wherever the verifier looks."""
    num_blank: int
    """Answers without any text."""
    num_same_groups: int
    """Groups all of whose answers have the same text."""
    tokens_mean: float
    tokens_p90: int
    num_cut_off: int
    """Answers that were cut off as too long."""
    num_out_of_time: int
    """Those of them that took too long, with tokens left."""
    generating_seconds: float
    """From the first question to the last answer."""
    engine_seconds: float
    """Time of all answers in the engine, added up."""
    scoring_seconds: float
    """Time of all verdicts, added up."""
    waiting_seconds: float
    """Of it, that of verifiers that judge many answers at once."""

    def num_of(self, kind: GroupKind) -> int:
        """Groups of a kind."""
        return self.groups.get(kind, 0)

    @property
    def num_mixed(self) -> int:
        """Groups that have something to teach."""
        return self.num_of(GroupKind.MIXED)

    @property
    def mixed_share(self) -> float:
        """Share of the groups that has something to teach."""
        return self.num_mixed / self.num_groups if self.num_groups else 0.0

    @property
    def cut_off_share(self) -> float:
        """Share of the answers that was cut off."""
        return self.num_cut_off / self.num_answers if self.num_answers else 0.0


def compute_figures(source: str, groups: Sequence[JudgedGroup]) -> SourceFigures:
    """The figures of a source by the groups that were judged, which may be none."""
    all_answers = [answer for group in groups for answer in group.answers]
    answers = [answer for answer in all_answers if answer.rollout.finish_reason is not FinishReason.ERROR]
    failed = [answer.rollout for answer in all_answers if answer.rollout.finish_reason is FinishReason.ERROR]
    rewards = [reward for group in groups for reward in group.rewards]
    verdicts = [verdict for answer in answers for verdict in answer.verdicts if verdict.term.counts]
    answer_in = _find_place(verdicts)
    mark, begin = MARKS.get(answer_in or _fixed_place(verdicts), ("", ""))
    lengths = sorted(answer.rollout.num_sampled_tokens for answer in answers)
    cut_off = [answer.rollout for answer in answers if answer.rollout.finish_reason is FinishReason.LENGTH]
    max_tokens = groups[0].prompt.sampling.max_tokens if groups else 0
    return SourceFigures(
        source=source,
        num_groups=len(groups),
        group_size=groups[0].prompt.group.size if groups else 0,
        groups=dict(Counter(group.kind for group in groups)),
        num_answers=len(all_answers),
        num_failed=len(failed),
        failure=failed[0].error if failed else "",
        num_rewarded=len(rewards),
        reward_mean=_mean(rewards) if rewards else None,
        reward_lowest=min(rewards, default=None),
        reward_highest=max(rewards, default=None),
        components=_component_figures(answers),
        metrics=_metric_means(verdicts),
        num_verdicts=len(verdicts),
        unscored=_unscored_figures(verdicts),
        mark=mark,
        answer_in=answer_in,
        num_with_mark=sum(begin in answer.rollout.text for answer in answers) if mark else 0,
        num_boxed=sum(MARKS["boxed"][1] in answer.rollout.text for answer in answers),
        num_blank=sum(not answer.rollout.text.strip() for answer in answers),
        num_same_groups=sum(_has_one_text(group) for group in groups),
        tokens_mean=_mean(lengths) if lengths else 0.0,
        tokens_p90=percentile(lengths, 0.9) if lengths else 0,
        num_cut_off=len(cut_off),
        num_out_of_time=sum(rollout.num_sampled_tokens < max_tokens for rollout in cut_off),
        generating_seconds=_generating_seconds(groups),
        engine_seconds=sum(answer.rollout.generate_seconds for answer in answers),
        scoring_seconds=sum(verdict.seconds for answer in answers for verdict in answer.verdicts),
        waiting_seconds=sum(v.seconds for answer in answers for v in answer.verdicts if v.is_async),
    )


def percentile(in_order: Sequence[int], share: float) -> int:
    """The smallest value that at least this share of the values does not exceed.

    Example:
        >>> percentile([1, 2, 3, 4, 5, 6, 7, 8, 9, 10], 0.9)
        9
    """
    return in_order[max(0, math.ceil(share * len(in_order)) - 1)]


def component_names(terms: Iterable[RewardTerm]) -> Mapping[tuple[str, str], str]:
    """What the components that count are called, by term id and name."""
    counting = {
        (term.id, name): name for term in terms if term.counts for name, weight in term.weights.items() if weight
    }
    times = Counter(counting.values())
    return {key: name if times[name] == 1 else f"{key[0]}.{name}" for key, name in counting.items()}


def _component_figures(answers: Sequence[JudgedAnswer]) -> Mapping[str, ComponentFigures]:
    verdicts = [verdict for answer in answers for verdict in answer.verdicts if verdict.term.counts]
    terms = {verdict.term.id: verdict.term for verdict in reversed(verdicts)}
    found = {}
    for (term_id, component), label in component_names(reversed(terms.values())).items():
        said = [v.judgement.components for v in verdicts if v.term.id == term_id]
        values = [components[component] for components in said if component in components]
        if values:
            found[label] = ComponentFigures(
                weight=terms[term_id].weights[component],
                mean=_mean(values),
                lowest=min(values),
                highest=max(values),
                num_answers=len(values),
            )
    return found


def _metric_means(verdicts: Sequence[TermVerdict]) -> Mapping[str, float]:
    values: dict[str, list[float]] = {}
    for verdict in verdicts:
        for name, value in verdict.judgement.metrics.items():
            values.setdefault(name, []).append(value)
    return {name: _mean(of_name) for name, of_name in values.items()}


def _unscored_figures(verdicts: Sequence[TermVerdict]) -> Mapping[Status, UnscoredFigures]:
    by_status: dict[Status, list[str]] = {}
    for verdict in verdicts:
        if verdict.status is not Status.SCORED:
            by_status.setdefault(verdict.status, []).append(verdict.detail)
    return {
        status: UnscoredFigures(num_verdicts=len(details), reason=details[0]) for status, details in by_status.items()
    }


def _find_place(verdicts: Sequence[TermVerdict]) -> str:
    """Where a verifier looks for the answer, as its parameter says; empty if it has none."""
    params = (json.loads(v.judgement.params_json) for v in verdicts if v.status is Status.SCORED)
    return next((place for of_verdict in params if (place := of_verdict.get("answer_in"))), "")


def _fixed_place(verdicts: Sequence[TermVerdict]) -> str:
    return "tags" if any(verdict.term.verifier in TAGGED_VERIFIERS for verdict in verdicts) else ""


def _has_one_text(group: JudgedGroup) -> bool:
    texts = [answer.rollout.text for answer in group.answers if answer.rollout.finish_reason is not FinishReason.ERROR]
    return len(texts) >= 2 and len(set(texts)) == 1


def _generating_seconds(groups: Sequence[JudgedGroup]) -> float:
    if not groups:
        return 0.0
    return max(group.answered_seconds for group in groups) - min(group.started_seconds for group in groups)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)

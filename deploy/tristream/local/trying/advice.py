r"""What would keep a run from learning, in words, and what to do about it; pure.

Each rule looks at the figures of one source and says at most one thing. What keeps a source from being trained at all
blocks it, and comes first.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from tristream.local.trying.figures import SourceFigures
from tristream.local.trying.judged_groups import EQUAL_REWARDS, GroupKind
from tristream.wire.events import Status

WORRYING_CUT_OFF = 0.2
WORRYING_BLANK = 0.2
WORRYING_GROUPS = 0.5
"""Share of groups of one kind, beside mixed ones."""
SLOW_SECONDS = 1.0
"""Scoring that takes less is never slow."""


class Topic(StrEnum):
    """What an advice is about."""

    FAILED = "failed"
    UNSCORED = "unscored"
    ALL_WRONG = "all_wrong"
    ALL_RIGHT = "all_right"
    ALL_EQUAL = "all_equal"
    SAME_TEXT = "same_text"
    CUT_OFF = "cut_off"
    BLANK = "blank"
    SILENT_COMPONENT = "silent_component"
    SLOW_SCORING = "slow_scoring"


@dataclass(frozen=True, slots=True, kw_only=True)
class Advice:
    """One thing that is wrong with a source."""

    source: str
    topic: Topic
    what: str
    remedy: str
    blocks: bool = False
    """Whether nothing of the source is trained because of it."""


def find_advice(figures: SourceFigures, *, num_processes: int = 1) -> list[Advice]:
    """What is wrong with a source, what blocks it first; nothing is said of a source without groups.

    Args:
        figures: of the source.
        num_processes: child processes that score.
    """
    if not figures.num_groups:
        return []
    found = [advice for rule in RULES if (advice := rule(figures)) is not None]
    slow = _slow_scoring(figures, num_processes)
    return sorted([*found, *([slow] if slow else [])], key=lambda advice: not advice.blocks)


def _failed(figures: SourceFigures) -> Advice | None:
    if not figures.num_failed:
        return None
    return Advice(
        source=figures.source,
        topic=Topic.FAILED,
        what=f"{_of(figures.num_failed, figures.num_answers, 'answer')} could not be generated: {figures.failure}",
        remedy="correct the rows, or the model's folder; such groups are dropped",
        blocks=figures.num_failed == figures.num_answers,
    )


def _unscored(figures: SourceFigures) -> Advice | None:
    if not figures.unscored:
        return None
    counts = ", ".join(f"{each.num_verdicts} {status}" for status, each in figures.unscored.items())
    worst = max(figures.unscored.values(), key=lambda each: each.num_verdicts)
    remedies = {
        Status.UNSCORABLE: "correct the truths of the rows, or the source's params",
        Status.TIMEOUT: "raise verification.cpu_seconds or wall_seconds, or lower rollout.max_tokens",
        Status.ERROR: "mend the verifier; `tristream verifiers check` tries it on the rows",
    }
    status = next(status for status, each in figures.unscored.items() if each is worst)
    return Advice(
        source=figures.source,
        topic=Topic.UNSCORED,
        what=f"of {figures.num_verdicts} verdicts {counts}: {worst.reason or 'without a reason'}",
        remedy=remedies[status],
        blocks=not figures.num_rewarded,
    )


def _all_wrong(figures: SourceFigures) -> Advice | None:
    number = figures.num_of(GroupKind.ALL_WRONG)
    if not _is_worrying(number, figures):
        return None
    blocks = not figures.num_mixed
    answers = figures.num_answers - figures.num_failed
    effect = "the policy never sees a reward" if blocks else "they are dropped and replaced, which costs generating"
    if figures.mark and figures.num_with_mark <= answers / 10:
        return Advice(
            source=figures.source,
            topic=Topic.ALL_WRONG,
            what=f"{_groups_are(number, figures)} all wrong, {figures.num_with_mark} of {answers} answers have "
            f"{figures.mark}, where the verifier looks for the answer; {effect}",
            remedy=_remedy_for_mark(figures, answers),
            blocks=blocks,
        )
    remedy = (
        "if answers above are right, correct the truths or the source's params; else take easier rows, "
        "a stronger model or a larger rollout.group_size"
    )
    zero = [name for name, each in figures.components.items() if each.weight > 0 and each.highest <= EQUAL_REWARDS]
    which = f", {_and(zero)} is 0 in {answers} answers" if zero else ""
    return Advice(
        source=figures.source,
        topic=Topic.ALL_WRONG,
        what=f"{_groups_are(number, figures)} all wrong{which}; {effect}",
        remedy="see first to the answers that are cut off" if _is_cut_off(figures) else remedy,
        blocks=blocks,
    )


def _remedy_for_mark(figures: SourceFigures, answers: int) -> str:
    asking = f"ask for {figures.mark} in the prompt, with an example, or train the model to write it first"
    if not figures.answer_in:
        return asking
    if figures.answer_in != "boxed" and figures.num_boxed > answers / 2:
        has = rf"{figures.num_boxed} answers have \boxed{{...}}"
        return f'{has}: take them by params = {{ answer_in = "boxed" }} in the source, or {asking}'
    return f'{asking}, or take answers anywhere: params = {{ answer_in = "text" }} in the source'


def _all_right(figures: SourceFigures) -> Advice | None:
    number = figures.num_of(GroupKind.ALL_RIGHT)
    if not _is_worrying(number, figures):
        return None
    blocks = not figures.num_mixed
    effect = "there is nothing to learn" if blocks else "they are dropped and replaced, which costs generating"
    return Advice(
        source=figures.source,
        topic=Topic.ALL_RIGHT,
        what=f"{_groups_are(number, figures)} all right; {effect}",
        remedy="take harder rows, a stricter verifier, or leave the source out",
        blocks=blocks,
    )


def _all_equal(figures: SourceFigures) -> Advice | None:
    number = figures.num_of(GroupKind.ALL_EQUAL)
    if not _is_worrying(number, figures):
        return None
    assert figures.reward_lowest is not None
    assert figures.reward_highest is not None
    is_one = figures.reward_highest - figures.reward_lowest < EQUAL_REWARDS
    if is_one:
        what = f"each of {figures.num_rewarded} answers earns {figures.reward_highest:.2f}, whatever it says"
    else:
        what = f"in {number} of {figures.num_groups} groups all answers earn the same"
    constant = [
        f"{name} is always {each.highest:g}"
        for name, each in figures.components.items()
        if each.highest - each.lowest < EQUAL_REWARDS
    ]
    return Advice(
        source=figures.source,
        topic=Topic.ALL_EQUAL,
        what="; ".join([what, *constant, "such groups are dropped" if figures.num_mixed else "nothing is trained"]),
        remedy="look at the answers above, and at what the verifier rewards",
        blocks=not figures.num_mixed,
    )


def _same_text(figures: SourceFigures) -> Advice | None:
    if not _is_worrying(figures.num_same_groups, figures):
        return None
    return Advice(
        source=figures.source,
        topic=Topic.SAME_TEXT,
        what=f"in {figures.num_same_groups} of {figures.num_groups} groups all answers are the same text",
        remedy="raise rollout.temperature, or leave top_p, top_k and min_p as they are by default",
    )


def _cut_off(figures: SourceFigures) -> Advice | None:
    if not _is_cut_off(figures):
        return None
    is_slow = figures.num_out_of_time > figures.num_cut_off / 2
    limit = "rollout.max_seconds" if is_slow else "rollout.max_tokens"
    return Advice(
        source=figures.source,
        topic=Topic.CUT_OFF,
        what=f"{figures.cut_off_share:.0%} of the answers are cut off by {limit}, perhaps before the point",
        remedy=f"raise {limit}, or ask for shorter answers",
    )


def _blank(figures: SourceFigures) -> Advice | None:
    answers = figures.num_answers - figures.num_failed
    if not answers or figures.num_blank / answers <= WORRYING_BLANK:
        return None
    return Advice(
        source=figures.source,
        topic=Topic.BLANK,
        what=f"{_of(figures.num_blank, answers, 'answer')} say nothing at all",
        remedy="check the chat template, and rollout.stop and stop_token_ids",
    )


def _silent_component(figures: SourceFigures) -> Advice | None:
    """A component that is always 0 beside others that are not: what it weighs can only be lost."""
    active = {name: each for name, each in figures.components.items() if each.weight > 0}
    silent = [name for name, each in active.items() if each.highest <= EQUAL_REWARDS]
    loud = [f"{name} is {each.mean:.2f}" for name, each in active.items() if each.mean > EQUAL_REWARDS]
    if not silent or not loud:
        return None
    return Advice(
        source=figures.source,
        topic=Topic.SILENT_COMPONENT,
        what=f"{_and(silent)} is 0 in all {figures.num_rewarded} answers, while {_and(loud)} on average",
        remedy=f"ask in the prompt for what {_and(silent)} rewards, or set its weight to 0; it is never learned so",
    )


def _slow_scoring(figures: SourceFigures, num_processes: int) -> Advice | None:
    seconds = (figures.scoring_seconds - figures.waiting_seconds) / num_processes
    if seconds <= max(figures.generating_seconds, SLOW_SECONDS):
        return None
    return Advice(
        source=figures.source,
        topic=Topic.SLOW_SCORING,
        what=f"scoring takes {seconds:.1f} s in {num_processes} of verification.num_processes, generating "
        f"{figures.generating_seconds:.1f} s",
        remedy="raise verification.num_processes, start more workers, or take a quicker verifier",
    )


RULES: Sequence[Callable[[SourceFigures], Advice | None]] = (
    _failed,
    _unscored,
    _cut_off,
    _blank,
    _all_wrong,
    _all_right,
    _all_equal,
    _silent_component,
    _same_text,
)


def _is_cut_off(figures: SourceFigures) -> bool:
    return figures.cut_off_share > WORRYING_CUT_OFF


def _is_worrying(number: int, figures: SourceFigures) -> bool:
    """Whether so many groups of a kind are a reason to speak: half of all; where none is mixed, as many as any kind."""
    if not figures.num_mixed:
        others = [count for kind, count in figures.groups.items() if kind is not GroupKind.UNSCORED]
        return number > 0 and number == max(others, default=0)
    return number > figures.num_groups * WORRYING_GROUPS


def _groups_are(number: int, figures: SourceFigures) -> str:
    if number < figures.num_groups:
        return f"{number} of {figures.num_groups} groups are"
    return f"all {number} groups are" if number > 1 else "the only group is"


def _of(number: int, total: int, noun: str) -> str:
    return f"all {total} {noun}s" if number == total else f"{number} of {total} {noun}s"


def _and(words: Sequence[str]) -> str:
    return " and ".join(words)

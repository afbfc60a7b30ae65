"""Reads what is known of a run around a step, by key range: the numbers of its groups come from the steps."""

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from tristream.monitoring.queries.select import Rows, select
from tristream.monitoring.queries.why.facts import (
    Answer,
    AnswerKey,
    Group,
    Mark,
    StepFacts,
    Surroundings,
    Verdict,
    Window,
)
from tristream.monitoring.store.client import Client
from tristream.runtime.errors import UserError

HISTORY_WINDOWS = 4
"""Steps before the window that say what was usual, as a multiple of the steps on one side."""
MAX_ANSWERS = 30_000
"""Answers that are read; of more groups, every second, third ... is left out, by number."""

_STEPS = """
    SELECT step, created, metrics, numbers, rollout_indexes, valid, rewards FROM steps FINAL
    WHERE run = {run:String} AND step BETWEEN {first:Int64} AND {last:Int64} ORDER BY step
"""
_DROPPED = """
    SELECT number, reason, created, rollout_indexes, valid, rewards FROM outcomes FINAL
    WHERE run = {run:String} AND split = 'train' AND eval_step = 0 AND eval_attempt = 0
        AND number BETWEEN {low:Int64} AND {high:Int64} AND fate = 'dropped' AND reason != 'conflicting'
"""
_PROMPTS = """
    SELECT number, source, sample_id, cityHash64(ground_truth) AS truth, max_tokens, run_fingerprint, group_size,
        created
    FROM prompts FINAL
    WHERE run = {run:String} AND split = 'train' AND eval_step = 0 AND eval_attempt = 0
        AND number BETWEEN {low:Int64} AND {high:Int64} AND ({source:String} = '' OR source = {source:String})
"""
_ROLLOUTS = """
    SELECT number, rollout_index, source, num_prompt_tokens, num_completion_tokens, finish_reason, oldest_version,
        producer, term_ids, term_versions, reward_weights, combine, on_unscored
    FROM rollouts FINAL
    WHERE run = {run:String} AND split = 'train' AND eval_step = 0 AND eval_attempt = 0
        AND number BETWEEN {low:Int64} AND {high:Int64} AND ({source:String} = '' OR source = {source:String})
        AND intHash32(number) % {stride:UInt32} = 0
"""
_REWARDS = """
    SELECT number, rollout_index, term_id, verifier, version, status, components, metrics,
        JSONExtractFloat(params_json, 'iou_threshold') AS threshold,
        JSONExtractRaw(params_json, 'det_reward_ratio') AS ratios
    FROM rewards FINAL
    WHERE run = {run:String} AND split = 'train' AND eval_step = 0 AND eval_attempt = 0
        AND number BETWEEN {low:Int64} AND {high:Int64} AND ({source:String} = '' OR source = {source:String})
        AND intHash32(number) % {stride:UInt32} = 0
"""
_FIRST_SEEN = """
    SELECT source, sample_id, min(number) AS first FROM prompts
    WHERE run = {run:String} AND split = 'train' AND eval_step = 0 AND eval_attempt = 0 AND number <= {high:Int64}
        AND (source, sample_id) IN (
            SELECT source, sample_id FROM prompts
            WHERE run = {run:String} AND split = 'train' AND eval_step = 0 AND eval_attempt = 0
                AND number BETWEEN {low:Int64} AND {high:Int64} AND ({source:String} = '' OR source = {source:String})
        )
    GROUP BY source, sample_id
"""
_MARKS = """
    SELECT at_step, text, reason FROM change_marks
    WHERE run = {run:String} AND at_step BETWEEN {first:Int64} AND {last:Int64} ORDER BY at_step, created
"""
_HELD_OUT = """
    SELECT source, metric_name, eval_step, value, standard_error FROM evaluation
    WHERE run = {run:String} AND is_complete AND eval_step BETWEEN {first:Int64} AND {last:Int64} ORDER BY eval_step
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Settled:
    """What became of a group: its step, and what its rollouts were worth."""

    step: int
    decided: datetime
    fate: str
    reason: str
    rewards: Mapping[int, float]
    """Of its valid rollouts, by index."""


def read_surroundings(
    client: Client, run: str, step: int, source: str = "", *, num_steps: int, max_answers: int = MAX_ANSWERS
) -> Surroundings:
    """Read the steps around ``step``: ``num_steps`` before it, and as many from it on.

    Raises:
        UserError: the run has no such step, or none before it.
    """
    first = max(0, step - num_steps)
    history = max(0, first - HISTORY_WINDOWS * num_steps)
    rows = select(client, _STEPS, run=run, first=history - 1, last=step + num_steps - 1)
    window = _window(run, step, first, [row["step"] for row in rows])
    settled = _read_settled(client, run, rows)
    groups = _read_groups(client, run, source, settled, history)
    inside = [group for group in groups if window.holds(group.step)]
    expected = sum(group.num_rollouts for group in inside)
    stride = -(-expected // max_answers) or 1
    answers = _read_answers(client, run, source, window, inside, settled, stride) if inside else []
    return Surroundings(
        window=window,
        steps=[StepFacts(step=row["step"], metrics=row["metrics"]) for row in rows if row["step"] >= history],
        groups=groups,
        answers=answers,
        first_seen=_read_first_seen(client, run, source, inside),
        marks=[Mark(step=row["at_step"], text=row["text"], reason=row["reason"]) for row in
               select(client, _MARKS, run=run, first=window.first, last=window.last)],
        share_read=len({answer.number for answer in answers}) / max(1, len(inside)),
        held_out=_read_held_out(client, run, window, num_steps),
    )  # fmt: skip


def _window(run: str, step: int, first: int, steps: Sequence[int]) -> Window:
    if step not in steps:
        newest = f"; the newest that is near is {max(steps)}" if steps else ""
        raise UserError(
            f"run {run} has reported no step {step}{newest}", where="tristream why", remedy="give a step of the curves"
        )
    before = [one for one in steps if first <= one < step]
    if not before:
        raise UserError(
            f"run {run} has reported nothing before step {step}", where="tristream why", remedy="give a later step"
        )
    return Window(step=step, first=min(before), last=max(steps))


def _read_settled(client: Client, run: str, rows: Rows) -> dict[int, _Settled]:
    """What became of each group by number: trained by one of these steps, or dropped before the report of one.

    It is the definition of the view ``judged_groups``; here groups without any reward are in it too.
    """
    settled: dict[int, _Settled] = {}
    for row in rows:
        rewards: dict[int, dict[int, float]] = defaultdict(dict)
        for number, index, is_valid, worth in zip(
            row["numbers"], row["rollout_indexes"], row["valid"], row["rewards"], strict=True
        ):
            rewards[number] |= {index: worth} if is_valid else {}
        for number, known in rewards.items():
            settled[number] = _Settled(
                step=row["step"], decided=row["created"], fate="trained", reason="", rewards=known
            )
    numbers = sorted(settled)
    if not numbers:
        return {}
    spread = numbers[-1] - numbers[0] + 1
    dropped = select(client, _DROPPED, run=run, low=numbers[0] - spread, high=numbers[-1] + spread)
    reports = sorted((row["created"], row["step"]) for row in rows)
    for row in dropped:
        later = next((step for created, step in reports if row["created"] <= created), None)
        is_newest = row["number"] not in settled or settled[row["number"]].decided < row["created"]
        if later is None or row["created"] <= reports[0][0] or not is_newest:
            continue
        worths = zip(row["rollout_indexes"], row["valid"], row["rewards"], strict=True)
        known = {index: worth for index, is_valid, worth in worths if is_valid}
        settled[row["number"]] = _Settled(
            step=later, decided=row["created"], fate="dropped", reason=row["reason"], rewards=known
        )
    return settled


def _read_groups(client: Client, run: str, source: str, settled: Mapping[int, _Settled], first: int) -> list[Group]:
    if not settled:
        return []
    rows = select(client, _PROMPTS, run=run, source=source, low=min(settled), high=max(settled))
    groups = []
    for row in rows:
        what = settled.get(row["number"])
        if what is None or what.step < first or (what.fate == "dropped" and what.decided < row["created"]):
            continue
        groups.append(
            Group(
                number=row["number"], step=what.step, source=row["source"], sample_id=row["sample_id"],
                truth=row["truth"], max_tokens=row["max_tokens"], fingerprint=row["run_fingerprint"], fate=what.fate,
                reason=what.reason, rewards=list(what.rewards.values()), num_rollouts=row["group_size"],
            )
        )  # fmt: skip
    return sorted(groups, key=lambda group: group.number)


def _read_first_seen(client: Client, run: str, source: str, groups: Sequence[Group]) -> dict[tuple[str, str], int]:
    if not groups:
        return {}
    bounds = {"low": groups[0].number, "high": groups[-1].number}
    rows = select(client, _FIRST_SEEN, run=run, source=source, **bounds)
    return {(row["source"], row["sample_id"]): row["first"] for row in rows}


def _read_answers(
    client: Client, run: str, source: str, window: Window, groups: Sequence[Group], settled: Mapping[int, _Settled],
    stride: int,
) -> list[Answer]:  # fmt: skip
    numbers = {group.number: group for group in groups}
    bounds = {"run": run, "source": source, "low": min(numbers), "high": max(numbers), "stride": stride}
    verdicts: dict[AnswerKey, list[Verdict]] = defaultdict(list)
    for row in select(client, _REWARDS, **bounds):
        if row["number"] in numbers:
            verdicts[row["number"], row["rollout_index"]].append(_verdict(row))
    rollouts = [row for row in select(client, _ROLLOUTS, **bounds) if row["number"] in numbers]
    return [
        _answer(row, window, numbers[number].step, settled[number].rewards.get(index), verdicts[number, index])
        for row in rollouts
        for number, index in [(row["number"], row["rollout_index"])]
    ]


def _answer(row: Mapping[str, Any], window: Window, step: int, reward: float | None, said: Sequence[Verdict]) -> Answer:
    oldest = row["oldest_version"]
    return Answer(
        number=row["number"], index=row["rollout_index"], step=step, is_after=window.is_after(step),
        source=row["source"], reward=reward, age=max(0, step - 1 - oldest) if oldest >= 0 else 0,
        finish_reason=row["finish_reason"], num_tokens=row["num_completion_tokens"],
        num_prompt_tokens=row["num_prompt_tokens"], producer=row["producer"],
        versions=dict(zip(row["term_ids"], row["term_versions"], strict=True)), weights=row["reward_weights"],
        combine=row["combine"], on_unscored=row["on_unscored"], verdicts=said,
    )  # fmt: skip


def _verdict(row: Mapping[str, Any]) -> Verdict:
    return Verdict(
        term_id=row["term_id"], verifier=row["verifier"], version=row["version"], status=row["status"],
        components=row["components"], metrics=row["metrics"], threshold=row["threshold"] or None,
        ratios=_ratios(row["ratios"]),
    )  # fmt: skip


def _ratios(text: str) -> Mapping[str, float]:
    value = json.loads(text or "null")
    return {name: ratio for name, ratio in value.items() if ratio is not None} if isinstance(value, dict) else {}


def _read_held_out(
    client: Client, run: str, window: Window, num_steps: int
) -> dict[str, dict[str, float | int | str | None]]:
    """The newest complete round that no step from the asked one on has touched, and the newest one of the window.

    A round of step n evaluates the policy that step n made.
    """
    rows = select(client, _HELD_OUT, run=run, first=window.first - HISTORY_WINDOWS * num_steps, last=window.last)
    before = _newest(row for row in rows if row["eval_step"] < window.step)
    after = _newest(row for row in rows if row["eval_step"] >= window.step)
    return {
        name: {
            "metric": after[name]["metric_name"],
            **{f"{key}_{side}": row[name][key] for side, row in (("before", before), ("after", after))
               for key in ("eval_step", "value", "standard_error")},
        }
        for name in sorted(before.keys() & after.keys())
    }  # fmt: skip


def _newest(rows: Iterable[Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    return {row["source"]: row for row in rows}

"""Every metric of the registry computed anew with pandas, from the records of a run as they are on the log.

Nothing of the database is used, nor of what the sink makes of events: the definitions are those of docs/metrics.md. A
metric is a mapping from (microseconds since 1970, or the step, and the values of ``per``) to its value.
"""

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from tristream.wire import events

Values = dict[tuple[Any, ...], float]
TERMS = ("yet", "wait", "verify", "try again", "think again", "check again", "rethink", "reevaluation", "reexamine",
         "reevaluate", "recheck", "re-think", "re-examine", "re-evaluate", "re-check")  # fmt: skip
ENDING = re.compile(r"(s|d|ed|ing)?\b")
NANOSECONDS_A_MINUTE = 60 * 10**9


@dataclass(frozen=True, kw_only=True)
class Source:
    """What the run file says of it."""

    metric: str
    correct_at: float


@dataclass(frozen=True, kw_only=True)
class Log:
    """Events of a run, each kind in the order of the log."""

    prompts: Sequence[events.Prompt]
    rollouts: Sequence[events.Rollout]
    rewards: Sequence[events.Reward]
    outcomes: Sequence[events.Outcome]
    steps: Sequence[events.StepReport]
    statuses: Sequence[events.PartStatus]
    dead_letters: Sequence[events.DeadLetter]
    sources: Mapping[str, Source]


def first_of_each(facts: Iterable[Any], identity: Any) -> list[Any]:
    """Of equal identities the first on the log."""
    kept: dict[Any, Any] = {}
    for fact in facts:
        kept.setdefault(identity(fact), fact)
    return list(kept.values())


def words_in(text: str) -> Counter[str]:
    """Reflection words as whole words, with their endings; where two begin at one place the longer one counts."""
    found: Counter[str] = Counter()
    lowered, position = text.lower(), 0
    while position < len(lowered):
        for word in sorted(TERMS, key=len, reverse=True):
            end = position + len(word)
            starts = position == 0 or not re.match(r"\w", lowered[position - 1])
            if starts and lowered.startswith(word, position) and ENDING.match(lowered, end):
                found[word] += 1
                position = end - 1
                break
        position += 1
    return found


def exact_quantile(level: float) -> Any:
    """The value at position ``level * n`` of the sorted ones, counted from 0."""
    return lambda values: sorted(values)[min(len(values) - 1, int(level * len(values)))]


def mean_or_none(values: "pd.Series[Any]") -> float | None:
    """The mean of what is there."""
    known = values.dropna()
    return float(known.mean()) if len(known) else None


def share(flags: "pd.Series[Any]") -> float | None:
    """The share of what holds; None of nothing."""
    return float(flags.mean()) if len(flags) else None


class Recomputed:
    """The tables of a run, and each metric from them."""

    def __init__(self, log: Log) -> None:
        self.log = log
        self.prompts = {prompt.group.id: prompt for prompt in first_of_each(log.prompts, lambda p: p.group.id)}
        self.steps = {report.step: report for report in sorted(log.steps, key=lambda report: report.created_ns)}
        self.rewards = first_of_each(log.rewards, lambda reward: reward.id)
        self.rollouts = self._rollouts()
        self.trained = self._trained()
        self.judged = self._judged()

    def _rollouts(self) -> pd.DataFrame:
        said: dict[tuple[str, int], list[events.Reward]] = {}
        for reward in self.rewards:
            said.setdefault((reward.group.id, reward.index), []).append(reward)
        rows = []
        for rollout in first_of_each(self.log.rollouts, lambda r: (r.group.id, r.index)):
            source = self.log.sources[rollout.group.source]
            rows.append(
                {
                    "group": rollout.group.id, "index": rollout.index, "source": rollout.group.source,
                    "split": rollout.group.split, "eval_step": rollout.group.eval_step,
                    "attempt": rollout.group.eval_attempt, "created_ns": rollout.created_ns,
                    "prompt_length": rollout.num_prompt_tokens, "length": rollout.num_sampled_tokens,
                    "is_truncated": rollout.finish_reason is events.FinishReason.LENGTH,
                    "words": words_in(rollout.text),
                    **_scores(rollout, said.get((rollout.group.id, rollout.index), ()), source),
                }
            )  # fmt: skip
        return pd.DataFrame(rows)

    def _trained(self) -> pd.DataFrame:
        rows = []
        for report in self.steps.values():
            statistics = {(found.group_number, found.index): found for found in report.rollouts}
            for outcome in report.outcomes:
                for rollout in outcome.rollouts:
                    if not rollout.valid:
                        continue
                    found = statistics.get((outcome.group.number, rollout.index))
                    rows.append(
                        {
                            "step": report.step, "time": report.created_ns // 1000, "group": outcome.group.id,
                            "index": rollout.index, "reward": rollout.reward, "advantage": rollout.advantage,
                            "age": rollout.age, "entropy": found.mean_entropy if found else None,
                            "clip": found.clip_fraction if found else None, "kl": found.mean_kl if found else None,
                        }
                    )  # fmt: skip
        return pd.DataFrame(rows).merge(self.rollouts, on=["group", "index"])

    def _judged(self) -> pd.DataFrame:
        verdicts: dict[str, tuple[int, int, dict[str, Any]]] = {}

        def judge(group: events.Group, decided_ns: int, report: events.StepReport, verdict: dict[str, Any]) -> None:
            row = {"group": group.id, "step": report.step, "time": report.created_ns // 1000, **verdict}
            before = verdicts.get(group.id)
            if before is None or (decided_ns, report.step) > before[:2]:
                verdicts[group.id] = (decided_ns, report.step, row)

        for report in self.steps.values():
            for outcome in report.outcomes:
                judge(outcome.group, report.created_ns, report, _verdict(outcome, is_whole=True))
        ends = sorted(self.steps.values(), key=lambda report: report.created_ns)
        for outcome in self.standing_drops():
            report_after = next((end for end in ends if end.created_ns >= outcome.created_ns), None)
            if report_after is not None and outcome.drop_reason is not events.DropReason.CONFLICTING:
                is_whole = outcome.drop_reason is not events.DropReason.INCOMPLETE
                judge(outcome.group, outcome.created_ns, report_after, _verdict(outcome, is_whole=is_whole))
        table = pd.DataFrame([row for _, _, row in verdicts.values()])
        table["source"] = [self.prompts[group].group.source for group in table["group"]]
        table["size"] = [self.prompts[group].group.size for group in table["group"]]
        answers = self.rollouts.groupby("group")["is_truncated"].agg(["count", "sum"])
        return table.join(answers.rename(columns={"count": "num_answers", "sum": "num_truncated"}), on="group")

    def standing_drops(self) -> list[events.Outcome]:
        """Dropped training groups, of those that were dispatched again only later drops."""
        dropped = [
            outcome for outcome in self.log.outcomes
            if outcome.fate is events.Fate.DROPPED and outcome.group.split is events.Split.TRAIN
        ]  # fmt: skip
        unique = first_of_each(dropped, lambda outcome: (outcome.group.id, outcome.step, outcome.drop_reason))
        return [outcome for outcome in unique if outcome.created_ns >= self.prompts[outcome.group.id].created_ns]

    def of_trained(self, name: str) -> Values:
        """A metric of the rollouts that steps trained on, by source."""
        return {
            (time, source): value
            for (time, source), rows in self.trained.groupby(["time", "source"])
            if (value := self._trained_value(name, rows)) is not None
        }

    def _trained_value(self, name: str, rows: pd.DataFrame) -> float | None:
        right, wrong = rows[rows["is_correct"] == 1.0], rows[rows["is_correct"] == 0.0]
        reflects = rows["words"].map(bool)
        if name == "cost_seconds":
            step = int(rows["step"].iloc[0])
            tokens = self.trained[self.trained["step"] == step]["length"].sum()
            return float(sum(self.steps[step].phase_seconds.values()) * rows["length"].sum() / tokens)
        if name in ("entropy", "kl", "clip_fraction"):
            column = {"clip_fraction": "clip"}.get(name, name)
            known = rows.dropna(subset=[column])
            weights = known["length"]
            return float((known[column] * weights).sum() / weights.sum()) if weights.sum() else None
        found: dict[str, Any] = {
            "mean_reward": rows["reward"].mean(),
            "mean_metric": mean_or_none(rows["metric"]),
            "mean_length": rows["length"].mean(),
            "mean_age": rows["age"].mean(),
            "max_age": rows["age"].max(),
            "num_tokens": rows["length"].sum(),
            "num_rollouts": len(rows),
            "num_unscored": rows["metric"].isna().sum(),
            "mean_prompt_length": rows["prompt_length"].mean(),
            "advantage_deviation": rows["advantage"].std() if len(rows) > 1 else None,
            "mean_group_variance": mean_or_none(rows.groupby("group")["reward"].var()),
            "share_correct": mean_or_none(rows["is_correct"]),
            "truncated_share": share(rows["is_truncated"]),
            "reflection_share": share(reflects),
            "mean_correct_length": mean_or_none(right["length"]),
            "mean_wrong_length": mean_or_none(wrong["length"]),
            "correct_truncated_share": share(right["is_truncated"]),
            "wrong_truncated_share": share(wrong["is_truncated"]),
            "correct_reflection_share": share(right["words"].map(bool)),
            "wrong_reflection_share": share(wrong["words"].map(bool)),
            "reflection_correct_share": mean_or_none(rows[reflects]["is_correct"]),
            "no_reflection_correct_share": mean_or_none(rows[~reflects]["is_correct"]),
        }
        value = found[name]
        return None if value is None or math.isnan(value) else float(value)

    def of_judged(self, name: str) -> Values:
        """A metric of all judged groups, by source."""
        return {
            (time, source): float(value)
            for (time, source), rows in self.judged.groupby(["time", "source"])
            if (value := _judged_value(name, rows)) is not None
        }

    def of_components(self, kind: str, names: Sequence[str] | None = None) -> Values:
        """The mean of what verifiers said, by source and name; of any term under one of the names."""
        rows = self.trained[["time", "source", kind]]
        said = pd.DataFrame(
            [
                {"time": time, "source": source, "name": name, "value": value}
                for time, source, values in rows.itertuples(index=False)
                for name, value in values.items()
                if names is None or name.partition(".")[2] in names
            ]
        )
        if said.empty:
            return {}
        means = said.groupby(["time", "source", "name"])["value"].mean()
        return {key: float(value) for key, value in means.items()}

    def of_words(self) -> Values:
        """Occurrences of each reflection word, by step, source and word."""
        found: Counter[tuple[Any, ...]] = Counter()
        for step, source, words in self.trained[["step", "source", "words"]].itertuples(index=False):
            for word, number in words.items():
                found[step, source, word] += number
        return dict(found)

    def of_evaluation(self, name: str) -> Values:
        """A metric of held-out rounds, by source; of a version that was evaluated anew the newest round."""
        rollouts = self.rollouts[self.rollouts["split"] == events.Split.EVAL]
        asked = [prompt.group for prompt in self.prompts.values() if prompt.group.split is events.Split.EVAL]
        newest: dict[int, int] = {}
        for group in asked:
            newest[group.eval_step] = max(newest.get(group.eval_step, 0), group.eval_attempt)
        values: Values = {}
        for (source, step, attempt), rows in rollouts.groupby(["source", "eval_step", "attempt"]):
            judged = rows[rows["is_judged"]]
            if attempt < newest[step] or judged.empty:
                continue
            num_terms = sum(
                group.size
                * sum(term.mode is not events.TermMode.SHADOW for term in self.prompts[group.id].reward.terms)
                for group in asked
                if (group.source, group.eval_step, group.eval_attempt) == (source, step, attempt)
            )
            is_complete = rows["num_answered"].sum() >= 0.99 * num_terms > 0
            value = _round_value(name, judged) if is_complete or name not in _OF_WHOLE_ROUNDS else None
            if value is not None:
                values[int(judged["created_ns"].max()) // 1000, source] = float(value)
        return values

    def of_minutes(self, name: str) -> Values:
        """A metric of the rewards of a minute, by source, verifier, version and mode."""
        table = pd.DataFrame(
            [
                {
                    "time": reward.created_ns // NANOSECONDS_A_MINUTE * 60 * 10**6, "source": reward.group.source,
                    "verifier": reward.verifier, "version": reward.version, "mode": str(reward.mode),
                    "status": str(reward.status), "score": reward.score_seconds, "queued": reward.queued_seconds,
                }
                for reward in self.rewards
            ]
        )  # fmt: skip
        keys = ["time", "source", "verifier", "version", "mode"]
        found: dict[str, Any] = {
            "score_seconds_p50": lambda rows: exact_quantile(0.5)(rows["score"]),
            "score_seconds_p95": lambda rows: exact_quantile(0.95)(rows["score"]),
            "queued_seconds_p95": lambda rows: exact_quantile(0.95)(rows["queued"]),
            "num_rewards": len,
            "num_timeout": lambda rows: (rows["status"] == "timeout").sum(),
            "num_error": lambda rows: (rows["status"] == "error").sum(),
            "num_unscorable": lambda rows: (rows["status"] == "unscorable").sum(),
            "unscored_share": lambda rows: (rows["status"] != "scored").mean(),
        }
        return {key: float(found[name](rows)) for key, rows in table.groupby(keys)}

    def of_thresholds(self) -> Values:
        """The mean overlap that boxes had to reach, of the groups that count for a step."""
        groups = {group: (time, source) for group, time, source in self.judged[["group", "time", "source"]].values}
        found: dict[tuple[Any, ...], list[float]] = {}
        for reward in self.rewards:
            match = re.search(r'"iou_threshold": ?([0-9.]+)', reward.params_json)
            if match and reward.group.id in groups:
                key = (*groups[reward.group.id], reward.verifier, reward.version, str(reward.mode))
                found.setdefault(key, []).append(float(match[1]))
        return {key: sum(values) / len(values) for key, values in found.items()}

    def of_steps(self, name: str) -> Values:
        """A number of a step as its report has it."""
        values: Values = {}
        for report in self.steps.values():
            known = {
                "step_seconds": sum(report.phase_seconds.values()),
                "wait_seconds": report.phase_seconds.get("wait", 0.0),
                "step_tokens": report.num_completion_tokens,
                "step_age": report.max_age,
            }
            value = known[name] if name in known else report.metrics.get(name)
            if value is not None:
                values[(report.created_ns // 1000,)] = float(value)
        return values

    def of_phases(self) -> Values:
        """Seconds of each phase of a step."""
        return {
            (report.created_ns // 1000, phase): seconds
            for report in self.steps.values()
            for phase, seconds in report.phase_seconds.items()
        }

    def of_work(self, column: str) -> Values:
        """Rollouts, or their tokens, a second in ten seconds, by source."""
        table = self.rollouts.assign(time=self.rollouts["created_ns"] // 10**10 * 10**7, rollouts=1)
        sums = table.groupby(["time", "source"])[column].sum()
        return {key: float(value) / 10 for key, value in sums.items()}

    def of_drops(self) -> Values:
        """Dropped groups by source and reason, at the time of the newest."""
        found: dict[tuple[str, str], list[events.Outcome]] = {}
        for outcome in self.standing_drops():
            found.setdefault((outcome.group.source, str(outcome.drop_reason)), []).append(outcome)
        return {
            (max(outcome.created_ns for outcome in dropped) // 1000, source, reason): float(
                len({outcome.group.id for outcome in dropped})
            )
            for (source, reason), dropped in found.items()
        }

    def of_dead_letters(self) -> Values:
        """Dead letters of a minute, by part and topic."""
        return dict(
            Counter(
                (letter.created_ns // NANOSECONDS_A_MINUTE * 60 * 10**6, str(letter.part), letter.topic)
                for letter in self.log.dead_letters
            )
        )

    def of_processes(self, name: str) -> Values:
        """A measure of each process, of its newest word of a minute."""
        newest: dict[tuple[int, str, str], Mapping[str, float]] = {}
        for status in sorted(self.log.statuses, key=lambda status: status.created_ns):
            minute = status.created_ns // NANOSECONDS_A_MINUTE * 60 * 10**6
            newest[minute, str(status.part), status.instance] = status.measures
        if name == "lag_records":
            return {(*key, measure): amount for key, measures in newest.items()
                    for measure, amount in measures.items() if measure.startswith("lag_")}  # fmt: skip
        if name != "cpu_cores":
            return {key: measures[name] for key, measures in newest.items() if name in measures}
        values: Values = {}
        before: dict[tuple[str, str], tuple[int, float]] = {}
        for (minute, part, instance), measures in sorted(newest.items()):
            if "cpu_seconds" not in measures:
                continue
            seconds = measures["cpu_seconds"]
            last = before.get((part, instance))
            if last is not None and seconds >= last[1]:
                values[minute, part, instance] = (seconds - last[1]) * 10**6 / (minute - last[0])
            before[part, instance] = (minute, seconds)
        return values


_OF_WHOLE_ROUNDS = ("evaluation", "evaluation_standard_error")


def _round_value(name: str, judged: pd.DataFrame) -> float | None:
    known = judged["metric"].dropna()
    if name == "evaluation_coverage":
        return len(known) / len(judged)
    if name == "evaluation_length":
        return float(judged["length"].mean())
    if name == "evaluation":
        return mean_or_none(known)
    return float(known.std() / math.sqrt(len(known))) if len(known) > 1 else None


def _judged_value(name: str, rows: pd.DataFrame) -> float | None:
    known = [reward for rewards in rows["rewards"] for reward in rewards]
    whole = rows[rows["is_whole"] & (rows["rewards"].map(len) > 1)]
    same = whole[whole["has_zero_variance"]]
    answered = rows[rows["rewards"].map(len) > 0]
    if name == "num_judged":
        return len(known)
    if name == "coverage":
        return float(len(known) / rows["size"].sum())
    if name == "judged_reward":
        return sum(known) / len(known) if known else None
    if name == "judged_truncated_share":
        num_answers = answered["num_answers"].sum()
        return float(answered["num_truncated"].sum() / num_answers) if num_answers else None
    if whole.empty:
        return None
    shares: dict[str, float] = {
        "zero_variance_share": len(same) / len(whole),
        "solve_all_share": sum(min(rewards) >= 1 - 1e-6 for rewards in same["rewards"]) / len(whole),
        "solve_none_share": sum(max(rewards) <= 1e-6 for rewards in same["rewards"]) / len(whole),
    }
    return shares[name]


def _verdict(outcome: events.Outcome, *, is_whole: bool) -> dict[str, Any]:
    return {
        "rewards": [rollout.reward for rollout in outcome.rollouts if rollout.valid],
        "has_zero_variance": outcome.has_zero_variance,
        "is_whole": is_whole,
    }


def _scores(rollout: events.Rollout, said: Sequence[events.Reward], source: Source) -> dict[str, Any]:
    """What the verifier versions that a rollout pinned said of it; shadows apart."""
    pinned = {term.id: term for term in rollout.reward.terms}
    answers = {reward.term_id: reward for reward in said
               if reward.term_id in pinned and pinned[reward.term_id].version == reward.version}  # fmt: skip
    active = [term for term in rollout.reward.terms if term.mode is not events.TermMode.SHADOW]
    counted = {term.id: answers[term.id] for term in active if term.id in answers}
    beside = [answers[term.id] for term in rollout.reward.terms
              if term.mode is events.TermMode.SHADOW and term.id in answers]  # fmt: skip
    components = _by_name(counted.values(), "components")
    is_judged = bool(active) and len(counted) == len(active)
    metric = _metric(active, counted, source.metric) if is_judged else None
    return {
        "components": components,
        "metrics": _by_name(counted.values(), "metrics"),
        "shadows": _by_name(beside, "components"),
        "weighted": {
            f"{term.id}.{name}": weight * components[f"{term.id}.{name}"]
            for term in rollout.reward.terms
            if term.counts
            for name, weight in term.weights.items()
            if weight != 0 and f"{term.id}.{name}" in components
        },
        "is_judged": is_judged,
        "num_answered": len(counted),
        "metric": metric,
        "is_correct": None if metric is None else float(metric >= source.correct_at),
    }


def _by_name(rewards: Iterable[events.Reward], kind: str) -> dict[str, float]:
    return {f"{reward.term_id}.{name}": value for reward in rewards for name, value in getattr(reward, kind).items()}


def _metric(active: Sequence[events.RewardTerm], said: Mapping[str, events.Reward], name: str) -> float | None:
    """What the first term says that reports the metric; None where a term has no score to tell whether it would."""
    for term in active:
        reward = said[term.id]
        for values in (reward.components, reward.metrics):
            if name in values:
                return values[name]
        if reward.status is not events.Status.SCORED:
            return None
    return None

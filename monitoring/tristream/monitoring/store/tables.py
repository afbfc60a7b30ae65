"""Events as rows: for each topic its table, its columns, and the row of an event.

``rank`` decides which of several rows of one identity stays, the largest. The sink gives it for
facts of which the first on the log wins; for states of which the newest wins it is the time.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tristream.monitoring.store.reflection import count_reflection_words
from tristream.wire import events, topics

Row = tuple[Any, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """One table and how its rows are made."""

    name: str
    columns: tuple[str, ...]
    to_row: Callable[[Any, int], Row]
    """From an event and the rank of its record."""


_IDENTITY = ("run", "split", "eval_step", "number")
_STAMP = ("created", "rank")


def _identity(group: events.Group) -> Row:
    return (group.run, group.split.value, group.eval_step, group.number)


def _doubles(values: Mapping[str, float]) -> dict[str, float]:
    return {name: float(value) for name, value in values.items()}


def _prompt_row(prompt: events.Prompt, rank: int) -> Row:
    return (
        *_identity(prompt.group),
        prompt.group.source,
        prompt.group.sample_id,
        prompt.group.size,
        prompt.progress.step,
        prompt.progress.total_steps,
        "\n\n".join(message.content for message in prompt.messages),
        prompt.reward.ground_truth,
        [image.sha256 for image in prompt.images],
        [term.verifier for term in prompt.reward.terms],
        -1 if prompt.pinned_weights is None else prompt.pinned_weights.version,
        prompt.sampling.temperature,
        prompt.sampling.max_tokens,
        prompt.created_ns,
        rank,
    )


def _rollout_row(rollout: events.Rollout, rank: int) -> Row:
    num_tokens = len(rollout.completion_tokens)
    return (
        *_identity(rollout.group),
        rollout.index,
        rollout.group.source,
        rollout.group.sample_id,
        rollout.group.size,
        rollout.progress.step,
        rollout.progress.total_steps,
        rollout.prompt_text,
        rollout.text,
        rollout.reward.ground_truth,
        [image.sha256 for image in rollout.images],
        [term.verifier for term in rollout.reward.terms],
        {
            f"{term.verifier}.{name}": float(weight)
            for term in rollout.reward.terms
            for name, weight in term.weights.items()
            if weight > 0
        },
        rollout.reward.combine.value,
        rollout.reward.on_unscored.value,
        len(rollout.prompt_tokens),
        num_tokens,
        sum(rollout.logprobs) / num_tokens if num_tokens else 0.0,
        rollout.finish_reason.value,
        rollout.oldest_version,
        max((span.version for span in rollout.version_spans), default=-1),
        rollout.temperature,
        rollout.queued_seconds,
        rollout.generate_seconds,
        count_reflection_words(rollout.text),
        rollout.producer,
        rollout.created_ns,
        rank,
    )


def _reward_row(reward: events.Reward, rank: int) -> Row:
    return (
        *_identity(reward.group),
        reward.index,
        reward.verifier,
        reward.version,
        reward.group.source,
        reward.status.value,
        reward.detail,
        _doubles(reward.components),
        _doubles(reward.metrics),
        reward.params_json,
        reward.queued_seconds,
        reward.score_seconds,
        reward.created_ns,
        rank,
    )


def _outcome_row(outcome: events.Outcome, rank: int) -> Row:
    return (
        *_identity(outcome.group),
        outcome.fate.value,
        outcome.step,
        outcome.reason,
        outcome.group.source,
        outcome.group.size,
        outcome.oldest_version,
        [rollout.index for rollout in outcome.rollouts],
        [int(rollout.valid) for rollout in outcome.rollouts],
        [rollout.reward for rollout in outcome.rollouts],
        [rollout.advantage for rollout in outcome.rollouts],
        outcome.created_ns,
        rank,
    )


def _policy_row(policy: events.PolicyVersion, _rank: int) -> Row:
    return (
        policy.run,
        policy.weights.version,
        policy.total_steps,
        policy.weights.uri,
        policy.weights.sha256,
        [(interval.start, interval.end) for interval in policy.settled],
        [(interval.start, interval.end) for interval in policy.dropped],
        policy.created_ns,
        policy.created_ns,
    )


def _step_row(report: events.StepReport, _rank: int) -> Row:
    return (
        report.run,
        report.step,
        report.total_steps,
        _doubles(report.metrics),
        _doubles(report.layer_grad_norms),
        _doubles(report.phase_seconds),
        [rollout.group_number for rollout in report.rollouts],
        [rollout.index for rollout in report.rollouts],
        [rollout.mean_logprob for rollout in report.rollouts],
        [rollout.mean_entropy for rollout in report.rollouts],
        [rollout.clip_fraction for rollout in report.rollouts],
        [rollout.mean_kl for rollout in report.rollouts],
        report.num_completion_tokens,
        report.num_groups,
        report.max_age,
        report.created_ns,
        report.created_ns,
    )


def _verifier_row(state: events.VerifierState, _rank: int) -> Row:
    return (
        state.run,
        state.verifier,
        state.version,
        state.mode.value,
        list(state.sources),
        state.num_scored,
        state.num_restarts,
        state.heartbeat_ns,
        state.heartbeat_ns,
    )


def _dead_letter_row(letter: events.DeadLetter, _rank: int) -> Row:
    return (
        letter.run,
        letter.topic,
        letter.partition,
        letter.offset,
        letter.part,
        letter.headers.get(topics.SOURCE_HEADER, b"").decode(errors="replace"),
        letter.key.decode(errors="replace"),
        len(letter.value),
        letter.error,
        letter.created_ns,
        letter.created_ns,
    )


TABLES: Mapping[str, Table] = {
    topics.PROMPTS.name: Table(
        name="prompts",
        columns=(*_IDENTITY, "source", "sample_id", "group_size", "step", "total_steps", "text", "ground_truth",
                 "image_hashes", "verifiers", "pinned_version", "temperature", "max_tokens", *_STAMP),
        to_row=_prompt_row,
    ),
    topics.ROLLOUTS.name: Table(
        name="rollouts",
        columns=(*_IDENTITY, "rollout_index", "source", "sample_id", "group_size", "step", "total_steps",
                 "prompt_text", "text", "ground_truth", "image_hashes", "verifiers", "reward_weights", "combine",
                 "on_unscored", "num_prompt_tokens", "num_completion_tokens", "mean_logprob", "finish_reason",
                 "oldest_version", "newest_version", "temperature", "queued_seconds", "generate_seconds",
                 "reflection_words", "producer", *_STAMP),
        to_row=_rollout_row,
    ),
    topics.REWARDS.name: Table(
        name="rewards",
        columns=(*_IDENTITY, "rollout_index", "verifier", "version", "source", "status", "detail", "components",
                 "metrics", "params_json", "queued_seconds", "score_seconds", *_STAMP),
        to_row=_reward_row,
    ),
    topics.OUTCOMES.name: Table(
        name="outcomes",
        columns=(*_IDENTITY, "fate", "step", "reason", "source", "group_size", "oldest_version", "rollout_indexes",
                 "valid", "rewards", "advantages", *_STAMP),
        to_row=_outcome_row,
    ),
    topics.POLICY.name: Table(
        name="policy",
        columns=("run", "version", "total_steps", "uri", "sha256", "settled", "dropped", *_STAMP),
        to_row=_policy_row,
    ),
    topics.STEPS.name: Table(
        name="steps",
        columns=("run", "step", "total_steps", "metrics", "layer_grad_norms", "phase_seconds", "numbers",
                 "rollout_indexes", "mean_logprobs", "mean_entropies", "clip_fractions", "mean_kls",
                 "num_completion_tokens", "num_groups", "max_age", *_STAMP),
        to_row=_step_row,
    ),
    topics.VERIFIERS.name: Table(
        name="verifiers",
        columns=("run", "verifier", "version", "mode", "sources", "num_scored", "num_restarts", *_STAMP),
        to_row=_verifier_row,
    ),
    topics.DEAD_LETTERS.name: Table(
        name="dead_letters",
        columns=("run", "topic", "log_partition", "log_offset", "part", "source", "record_key", "value_bytes",
                 "error", *_STAMP),
        to_row=_dead_letter_row,
    ),
}  # fmt: skip
"""The table of each topic, by topic name."""

IMAGES_COLUMNS: Sequence[str] = ("run", "sha256", "media_type", "uri", "data_base64")
SOURCES_COLUMNS: Sequence[str] = ("run", "source", "position", "metric", "weight", "created", "rank")

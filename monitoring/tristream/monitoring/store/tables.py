"""Events as rows: for each topic its table, and for each of its columns where the value comes from.

``rank`` decides which of several rows of one identity stays, the largest. The sink gives it for facts of which
the first on the log wins; for states of which the newest wins it is the time.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from tristream.monitoring.store.reflection import count_reflection_words
from tristream.wire import events, topics

Row = tuple[object, ...]


class Created(Protocol):
    """Every event."""

    @property
    def created_ns(self) -> int:
        """When it was made."""
        ...


class OfGroup(Protocol):
    """An event of a group."""

    @property
    def group(self) -> events.Group:
        """Whose it is."""
        ...


class OfSample(Protocol):
    """An event that carries the sample's own definition of reward."""

    @property
    def reward(self) -> events.RewardSpec:
        """What is asked for."""
        ...


EventT = TypeVar("EventT", bound=Created)


@dataclass(frozen=True, slots=True, kw_only=True)
class Table(Generic[EventT]):
    """One table and how its rows are made."""

    name: str
    columns: Mapping[str, Callable[[EventT], object]]
    """What each column holds; beside them every table has ``created`` and ``rank``."""
    newest_wins: bool = False
    """Which of several rows of one identity stays: the newest, or else the first on the log."""

    @property
    def column_names(self) -> tuple[str, ...]:
        """All columns, in the order of ``to_row``."""
        return (*self.columns, "created", "rank")

    def to_row(self, event: EventT, rank: int) -> Row:
        """The row of an event whose record has this rank on its log."""
        values = [value_of(event) for value_of in self.columns.values()]
        return (*values, event.created_ns, event.created_ns if self.newest_wins else rank)


_GROUP: Mapping[str, Callable[[OfGroup], object]] = {
    "run": lambda event: event.group.run,
    "split": lambda event: str(event.group.split),
    "eval_step": lambda event: event.group.eval_step,
    "eval_attempt": lambda event: event.group.eval_attempt,
    "number": lambda event: event.group.number,
    "source": lambda event: event.group.source,
}
_TERMS: Mapping[str, Callable[[OfSample], object]] = {
    "term_ids": lambda event: [term.id for term in event.reward.terms],
    "term_verifiers": lambda event: [term.verifier for term in event.reward.terms],
    "term_versions": lambda event: [term.version for term in event.reward.terms],
    "term_modes": lambda event: [str(term.mode) for term in event.reward.terms],
}


def _doubles(values: Mapping[str, float]) -> dict[str, float]:
    return {name: float(value) for name, value in values.items()}


def _reward_weights(rollout: events.Rollout) -> dict[str, float]:
    return {
        f"{term.id}.{name}": float(weight)
        for term in rollout.reward.terms
        if term.counts
        for name, weight in term.weights.items()
        if weight != 0
    }


def _mean_logprob(rollout: events.Rollout) -> float:
    num_tokens = rollout.num_sampled_tokens
    total = sum(sum(segment.logprobs.to_list()) for segment in rollout.segments if segment.is_sampled)
    return total / num_tokens if num_tokens else 0.0


PROMPTS: Table[events.Prompt] = Table(
    name="prompts",
    columns={
        **_GROUP,
        "sample_id": lambda prompt: prompt.group.sample_id,
        "group_size": lambda prompt: prompt.group.size,
        "step": lambda prompt: prompt.progress.step,
        "total_steps": lambda prompt: prompt.progress.total_steps,
        "text": lambda prompt: "\n\n".join(message.content for message in prompt.messages),
        "ground_truth": lambda prompt: prompt.reward.ground_truth,
        "image_hashes": lambda prompt: [image.sha256 for image in prompt.images],
        **_TERMS,
        "pinned_version": lambda prompt: -1 if prompt.pinned_weights is None else prompt.pinned_weights.version,
        "temperature": lambda prompt: prompt.sampling.temperature,
        "max_tokens": lambda prompt: prompt.sampling.max_tokens,
        "run_fingerprint": lambda prompt: prompt.run_fingerprint,
        "digest": lambda prompt: prompt.digest,
    },
)

ROLLOUTS: Table[events.Rollout] = Table(
    name="rollouts",
    columns={
        **_GROUP,
        "rollout_index": lambda rollout: rollout.index,
        "sample_id": lambda rollout: rollout.group.sample_id,
        "group_size": lambda rollout: rollout.group.size,
        "step": lambda rollout: rollout.progress.step,
        "total_steps": lambda rollout: rollout.progress.total_steps,
        "prompt_text": lambda rollout: rollout.prompt_text,
        "text": lambda rollout: rollout.text,
        "ground_truth": lambda rollout: rollout.reward.ground_truth,
        "image_hashes": lambda rollout: [image.sha256 for image in rollout.images],
        **_TERMS,
        "reward_weights": _reward_weights,
        "combine": lambda rollout: str(rollout.reward.combine),
        "on_unscored": lambda rollout: str(rollout.reward.on_unscored),
        "num_segments": lambda rollout: len(rollout.segments),
        "num_prompt_tokens": lambda rollout: rollout.num_prompt_tokens,
        "num_completion_tokens": lambda rollout: rollout.num_sampled_tokens,
        "mean_logprob": _mean_logprob,
        "finish_reason": lambda rollout: str(rollout.finish_reason),
        "oldest_version": lambda rollout: rollout.oldest_version,
        "newest_version": lambda rollout: rollout.newest_version,
        "temperature": lambda rollout: rollout.temperature,
        "queued_seconds": lambda rollout: rollout.queued_seconds,
        "generate_seconds": lambda rollout: rollout.generate_seconds,
        "reflection_words": lambda rollout: count_reflection_words(rollout.text),
        "producer": lambda rollout: rollout.producer,
        "prompt_digest": lambda rollout: rollout.prompt_digest,
        "error": lambda rollout: rollout.error,
    },
)

REWARDS: Table[events.Reward] = Table(
    name="rewards",
    columns={
        **_GROUP,
        "rollout_index": lambda reward: reward.index,
        "term_id": lambda reward: reward.term_id,
        "verifier": lambda reward: reward.verifier,
        "version": lambda reward: reward.version,
        "mode": lambda reward: str(reward.mode),
        "status": lambda reward: str(reward.status),
        "detail": lambda reward: reward.detail,
        "components": lambda reward: _doubles(reward.components),
        "metrics": lambda reward: _doubles(reward.metrics),
        "params_json": lambda reward: reward.params_json,
        "queued_seconds": lambda reward: reward.queued_seconds,
        "score_seconds": lambda reward: reward.score_seconds,
    },
)

OUTCOMES: Table[events.Outcome] = Table(
    name="outcomes",
    columns={
        **_GROUP,
        "fate": lambda outcome: str(outcome.fate),
        "step": lambda outcome: outcome.step,
        "reason": lambda outcome: str(outcome.drop_reason or ""),
        "group_size": lambda outcome: outcome.group.size,
        "oldest_version": lambda outcome: outcome.oldest_version,
        "has_zero_variance": lambda outcome: int(outcome.has_zero_variance),
        "rollout_indexes": lambda outcome: [rollout.index for rollout in outcome.rollouts],
        "valid": lambda outcome: [int(rollout.valid) for rollout in outcome.rollouts],
        "rewards": lambda outcome: [rollout.reward for rollout in outcome.rollouts],
        "advantages": lambda outcome: [rollout.advantage for rollout in outcome.rollouts],
        "ages": lambda outcome: [rollout.age for rollout in outcome.rollouts],
    },
)

POLICY: Table[events.PolicyVersion] = Table(
    name="policy",
    columns={
        "run": lambda policy: policy.run,
        "version": lambda policy: policy.weights.version,
        "total_steps": lambda policy: policy.total_steps,
        "uri": lambda policy: policy.weights.uri,
        "sha256": lambda policy: policy.weights.sha256,
        "durable_step": lambda policy: policy.durable.step,
        "durable_settled": lambda policy: [(interval.start, interval.end) for interval in policy.durable.settled],
        "durable_num_dropped": lambda policy: policy.durable.num_dropped,
        "durable_dropped_checksum": lambda policy: policy.durable.dropped_checksum,
        "learner_epoch": lambda policy: policy.durable.epoch,
    },
    newest_wins=True,
)


@dataclass(frozen=True, slots=True)
class _StepRollout:
    """One rollout of a step: what it was worth, and what the learner measured of it, if it was trained."""

    group: events.Outcome
    worth: events.RolloutOutcome
    measured: events.RolloutStatistics | None


def _step_rollouts(report: events.StepReport) -> Iterator[_StepRollout]:
    measured = {(statistics.group_number, statistics.index): statistics for statistics in report.rollouts}
    for group in report.outcomes:
        for worth in group.rollouts:
            yield _StepRollout(group, worth, measured.get((group.group.number, worth.index)))


def _each(value_of: Callable[[_StepRollout], object]) -> Callable[[events.StepReport], object]:
    return lambda report: [value_of(rollout) for rollout in _step_rollouts(report)]


STEPS: Table[events.StepReport] = Table(
    name="steps",
    columns={
        "run": lambda report: report.run,
        "step": lambda report: report.step,
        "total_steps": lambda report: report.total_steps,
        "metrics": lambda report: _doubles(report.metrics),
        "layer_grad_norms": lambda report: _doubles(report.layer_grad_norms),
        "phase_seconds": lambda report: _doubles(report.phase_seconds),
        "numbers": _each(lambda rollout: rollout.group.group.number),
        "rollout_indexes": _each(lambda rollout: rollout.worth.index),
        "zero_variances": _each(lambda rollout: int(rollout.group.has_zero_variance)),
        "valid": _each(lambda rollout: int(rollout.worth.valid)),
        "rewards": _each(lambda rollout: rollout.worth.reward),
        "advantages": _each(lambda rollout: rollout.worth.advantage),
        "ages": _each(lambda rollout: rollout.worth.age),
        "mean_logprobs": _each(lambda rollout: rollout.measured and rollout.measured.mean_logprob),
        "mean_entropies": _each(lambda rollout: rollout.measured and rollout.measured.mean_entropy),
        "clip_fractions": _each(lambda rollout: rollout.measured and rollout.measured.clip_fraction),
        "mean_kls": _each(lambda rollout: rollout.measured and rollout.measured.mean_kl),
        "num_completion_tokens": lambda report: report.num_completion_tokens,
        "num_groups": lambda report: report.num_groups,
        "max_age": lambda report: report.max_age,
    },
    newest_wins=True,
)

COMMANDS: Table[events.Command] = Table(
    name="commands",
    columns={
        "run": lambda command: command.run,
        "id": lambda command: command.id,
        "kind": lambda command: str(command.kind),
        "verifier": lambda command: command.verifier,
        "version": lambda command: command.version,
        "sources": lambda command: list(command.sources),
        "weights": lambda command: _doubles(command.weights),
        "params_json": lambda command: command.params_json,
        "entry_point": lambda command: command.entry_point,
        "components": lambda command: list(command.components),
        "code_sha256": lambda command: command.code_sha256,
        "from_earliest": lambda command: int(command.from_earliest),
        "from_number": lambda command: command.from_number,
        "from_version": lambda command: command.from_version,
        "refusal": lambda command: command.refusal,
        "reason": lambda command: command.reason,
        "total_steps": lambda command: command.total_steps,
    },
)

PARTS: Table[events.PartStatus] = Table(
    name="parts",
    columns={
        "run": lambda status: status.run,
        "part": lambda status: str(status.part),
        "instance": lambda status: status.instance,
        "state": lambda status: str(status.state),
        "waiting_for": lambda status: status.waiting_for,
        "since": lambda status: status.since_ns,
        "started": lambda status: status.started_ns,
        "address": lambda status: status.address,
        "measures": lambda status: _doubles(status.measures),
        "load_verifiers": lambda status: [load.verifier for load in status.verifiers],
        "load_versions": lambda status: [load.version for load in status.verifiers],
        "load_num_scored": lambda status: [load.num_scored for load in status.verifiers],
        "epoch": lambda status: status.epoch,
    },
    newest_wins=True,
)

LAST_DATE_TIME = 2**32 - 1
"""Seconds since the epoch that a DateTime holds at most."""


def _minute(status: events.PartStatus) -> int:
    seconds = status.created_ns // 10**9
    return max(0, min(seconds - seconds % 60, LAST_DATE_TIME))


STATUS_MINUTES: Table[events.PartStatus] = Table(
    name="status_minutes",
    columns={
        **{name: PARTS.columns[name] for name in ("run", "part", "instance")},
        "minute": _minute,
        **{name: PARTS.columns[name] for name in ("state", "waiting_for", "measures")},
    },
    newest_wins=True,
)

DEAD_LETTERS: Table[events.DeadLetter] = Table(
    name="dead_letters",
    columns={
        "run": lambda letter: letter.run,
        "topic": lambda letter: letter.topic,
        "log_partition": lambda letter: letter.partition,
        "log_offset": lambda letter: letter.offset,
        "part": lambda letter: letter.part,
        "source": lambda letter: letter.headers.get(topics.SOURCE_HEADER, b"").decode(errors="replace"),
        "record_key": lambda letter: letter.key.decode(errors="replace"),
        "value_bytes": lambda letter: len(letter.value),
        "error": lambda letter: letter.error,
    },
    newest_wins=True,
)

TABLES: Mapping[str, Table[Any]] = {
    topics.PROMPTS.name: PROMPTS,
    topics.ROLLOUTS.name: ROLLOUTS,
    topics.REWARDS.name: REWARDS,
    topics.OUTCOMES.name: OUTCOMES,
    topics.POLICY.name: POLICY,
    topics.STEPS.name: STEPS,
    topics.COMMANDS.name: COMMANDS,
    topics.PARTS.name: PARTS,
    topics.DEAD_LETTERS.name: DEAD_LETTERS,
}
"""The table of each topic, by topic name."""

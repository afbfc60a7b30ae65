"""What the measures of statuses are called for Prometheus, and what they mean."""

from collections.abc import Mapping
from dataclasses import dataclass

PREFIX = "tristream_"


@dataclass(frozen=True, slots=True)
class Kind:
    """One metric."""

    name: str
    """Without prefix, and without the ``_total`` of a counter."""
    meaning: str
    labels: tuple[str, ...] = ()
    """Beside those of the part: one for each group of its pattern."""
    is_counter: bool = False
    """Whether it only grows while the process lives."""


def _counter(name: str, meaning: str, *labels: str) -> Kind:
    return Kind(name, meaning, labels, is_counter=True)


KINDS: Mapping[str, Kind] = {
    "cpu_seconds": _counter("cpu_seconds", "Processor time of the process and its children."),
    "memory_bytes": Kind("memory_bytes", "Resident memory of the process and its children."),
    "gpu_memory_bytes": Kind("gpu_memory_bytes", "GPU memory that torch has reserved in the process."),
    "lag_(.+)": Kind("topic_lag_records", "Records of a topic that the part has not read yet.", ("topic",)),
    "version": Kind("policy_version", "Policy version that the part knows or works with."),
    "total_steps": Kind("run_steps", "Optimizer steps of the whole run."),
    "staleness": Kind("staleness_steps", "Largest age, in policy versions, of the rollouts of the newest step."),
    "num_ranks": Kind("learner_ranks", "Ranks of the learner."),
    "num_skipped_updates": _counter("skipped_updates", "Optimizer steps without an update, as it was not finite."),
    "trained_reward/(.+)": Kind("trained_reward", "Mean reward of the rollouts of the newest step.", ("source",)),
    "judged_reward/(.+)": Kind("judged_reward", "Mean reward of all judged rollouts of late.", ("source",)),
    "groups/(.+)": _counter("groups", "Training groups by what became of them.", "fate"),
    "open/(.+)": Kind("open_groups", "Groups that wait for rollouts or rewards.", ("source",)),
    "num_open": Kind("assembler_open_groups", "All groups that wait for rollouts or rewards."),
    "num_ready": Kind("assembler_ready_groups", "Groups that wait for a batch."),
    "is_attached": Kind("assembler_learner_attached", "Whether a learner has said where it stands."),
    "num_dispatched": _counter("dispatched_groups", "Groups dispatched."),
    "num_dropped": _counter("dropped_groups", "Groups that were dropped, as the dispatcher knows."),
    "num_trained": _counter("trained_groups", "Groups that steps have trained on, as the dispatcher knows."),
    "num_rounds_answered": _counter("evaluation_rounds", "Held-out rounds that are answered."),
    "paused/(.+)": Kind("source_paused", "Whether a source is paused.", ("source",)),
    "drops/([^/]+)/(.+)": Kind("source_dropped_ratio", "Share of the newest groups.", ("source", "reason")),
    "needs/([^/]+)/(.+)": Kind("source_needs_verifier", "Whether new prompts need it.", ("source", "verifier")),
    "num_rollouts": _counter("rollouts", "Rollouts made and acknowledged."),
    "num_tokens": _counter("tokens", "Tokens sampled of acknowledged rollouts."),
    "num_failed_prompts": _counter("failed_prompts", "Prompts of which no rollout could be made."),
    "num_failed_rollouts": _counter("failed_rollouts", "Rollouts that could not be made."),
    "num_running": Kind("running_rollouts", "Rollouts that the engine works on."),
    "num_waiting": Kind("waiting_rollouts", "Rollouts that wait for the engine."),
    "idle_share": Kind("engine_idle_ratio", "Free share of the engine's slots while there was work."),
    "cached_prompt_share": Kind("cached_prompt_ratio", "Share of prompt tokens that were in the cache."),
    "tokens_per_second": Kind("tokens_per_second", "Tokens a second of late."),
    "tokens_per_second/(.+)": Kind("source_tokens_per_second", "Tokens a second of late.", ("source",)),
    "num_(scored|unscorable|timeout|error)": _counter("rewards", "Rewards by status.", "status"),
    "num_dead_letters": _counter("dead_letters", "Records given up."),
    "num_restarts": _counter("verifier_restarts", "Child processes started again."),
    "num_in_hand": Kind("rollouts_in_hand", "Rollouts that a verifier works on."),
    "num_events": _counter("written_events", "Events written to the database."),
    "query_port": Kind("query_port", "Port of the HTTP queries."),
    "metrics_port": Kind("metrics_port", "Port of this server."),
}
"""By what a measure's name matches as a whole; its groups are the labels."""

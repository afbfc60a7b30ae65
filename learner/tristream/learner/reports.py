"""What the learner says of a step: its report, and the outcomes of its groups."""

import time
from collections import defaultdict
from collections.abc import Mapping

import torch

from tristream.config.run_file import RunFile
from tristream.learner.training.distributed import gather_bytes
from tristream.learner.training.train_step import StepResult
from tristream.wire import topics
from tristream.wire.batches import Batch, CommittedStep
from tristream.wire.events import Fate, Outcome, StepReport


def committed_step(batch: Batch) -> CommittedStep:
    """The TRAINED outcomes of this rank's groups."""
    return CommittedStep(
        step=batch.step,
        outcomes=tuple(
            Outcome(
                group=group.group,
                fate=Fate.TRAINED,
                step=batch.step,
                rollouts=group.outcomes,
                oldest_version=group.oldest_version,
                created_ns=time.time_ns(),
            )
            for group in batch.groups
        ),
    )


def mean_rewards(batch: Batch) -> dict[str, float]:
    """Mean final reward of each source over this rank's rollouts."""
    rewards: dict[str, list[float]] = defaultdict(list)
    for group in batch.groups:
        rewards[group.group.source].extend(rollout.reward for rollout in group.rollouts)
    return {source: sum(values) / len(values) for source, values in sorted(rewards.items())}


def step_report(settings: RunFile, batch: Batch, result: StepResult, phases: Mapping[str, float]) -> StepReport:
    """The report of a step over all ranks; called by all of them together."""
    seconds = sum(phases.get(name, 0.0) for name in ("pack", "forward_backward", "optimizer"))
    ages = [rollout.age for group in batch.groups for rollout in group.rollouts]
    own = StepReport(
        run=settings.run.id,
        step=batch.step,
        total_steps=settings.run.steps,
        metrics=result.metrics
        | {
            "tokens_per_second": batch.num_global_tokens / max(seconds, 1e-9),
            "model_tokens_per_second": result.metrics["model_tokens"] / max(seconds, 1e-9),
            "num_rollouts": float(batch.num_global_rollouts),
            "num_threads": float(torch.get_num_threads()),
        },
        layer_grad_norms=result.layer_grad_norms,
        phase_seconds=dict(phases),
        rollouts=result.statistics,
        num_completion_tokens=batch.num_global_tokens,
        num_groups=len(batch.trained),
        max_age=max(ages, default=0),
        created_ns=time.time_ns(),
    )
    codec = topics.STEPS.codec
    parts = [codec.decode(data) for data in gather_bytes(codec.encode(own))]
    return StepReport(
        run=own.run,
        step=own.step,
        total_steps=own.total_steps,
        metrics=own.metrics,
        layer_grad_norms=own.layer_grad_norms,
        phase_seconds=own.phase_seconds,
        rollouts=tuple(sorted((r for part in parts for r in part.rollouts), key=lambda r: (r.group_number, r.index))),
        num_completion_tokens=own.num_completion_tokens,
        num_groups=own.num_groups,
        max_age=max(part.max_age for part in parts),
        created_ns=own.created_ns,
    )
